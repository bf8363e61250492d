"""A real classifier that trains in a second: which of six photographs is this a piece of?

Its images are crops of the photographs in scikit-image's wheel, its bundle comes from the real
exporter. Test files share it through plain functions; each makes its own fixtures of them.
"""

from __future__ import annotations

import functools
import math
import sys
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgewf.bundle import Bundle
from edgewf.calibration import Calibration, Point
from edgewf.estimators import DEFAULT, STACKS
from edgewf.estimators.table import KEYS as SCORE_KEYS
from edgewf.estimators.table import References
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source
from edgewf.images import read_image
from edgewf.labels import Label
from edgewf.preprocessing import Image
from edgewf.settings import BurstSettings

PHOTOS = Path(skimage.__file__).parent / "data"
CLASSES = ("astronaut", "brick", "chelsea", "coffee", "ihc", "rocket")
SIDE = 32

EDGEWF = (sys.executable, "-c", "from edgewf.cli import main; main()")
"""The command line as a process of its own, whether or not its script is on the PATH."""

_FILES = {path.stem: path for path in sorted(PHOTOS.iterdir())}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

USED = STACKS[DEFAULT]
"""Scores that the default estimator looks at."""

# The documented keys of an estimate, in order; `true_accuracy` follows where labels were given.
KEYS = [
    "accuracy",
    "interval",
    "weighted_flips",
    "flips",
    "selected_share",
    "frames",
    "steps",
    "average_confidence",
    "flags",
    "model",
    "time",
    "source",
    "engine",
    "estimator",
    "scores",
]


def network() -> nn.Module:
    """Three convolutions with BatchNorm and a linear layer, for 32x32 images of six classes."""
    layers: list[nn.Module] = []
    for into, out in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(into, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6))


def crops(count: int, seed: int) -> tuple[Image, NDArray[np.int64]]:
    """Cut `count` squares out of every photograph: uint8 [6 count, 32, 32, 3], int64 [6 count]."""
    rng = np.random.default_rng(seed)
    images = []
    for name in CLASSES:
        photo = _photograph(name)
        for _ in range(count):
            side = int(rng.integers(100, min(photo.shape[:2]) // 2 + 100))
            top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
            square = photo[top : top + side, left : left + side]
            images.append(cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return np.stack(images).astype(np.uint8), np.repeat(np.arange(len(CLASSES)), count)


def write_class_folders(folder: Path, count: int, seed: int) -> Path:
    """Save `count` crops of every photograph as PNG files in a folder named by its class."""
    for i, (image, label) in enumerate(zip(*crops(count, seed), strict=True)):
        path = folder / CLASSES[label] / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return folder


def export_tiny(folder: Path, **options: Any) -> Bundle:
    """Train the network, unless another test file has, and export it to folder/tiny."""
    weights = folder / "weights.pth"
    torch.save(_trained(), weights)
    source = load_source(
        "tests.tiny:network", weights=str(weights), image_size=SIDE, resize=SIDE, classes=6
    )
    labels = [Label(name) for name in CLASSES]
    return export_bundle(source, folder / "tiny", labels=labels, **options)


def tiny_settings(**changes: object) -> BurstSettings:
    """Return a burst that takes milliseconds."""
    small: dict[str, object] = {"window": 16, "batch_size": 8, "steps": 2}
    return BurstSettings.default(len(CLASSES)).with_changes(**{**small, **changes})


def constant_calibration(
    bundle: Bundle, settings: BurstSettings, *, accuracy: float = 50.0, low: float = 0.0
) -> Calibration:
    """Return one that always estimates `accuracy`, from windows of a certainty over `low`.

    Its residual standard deviation is 3: eight windows, two parameters.
    """
    off = 3 * math.sqrt(6 / 8)
    points = tuple(
        Point(
            "clean",
            0,
            i,
            accuracy + sign * off,
            {**dict.fromkeys(SCORE_KEYS, 0.5), **dict.fromkeys(USED, score)},
        )
        for i, (sign, score) in enumerate(product((-1, 1), 2 * (low, 1.0)))
    )
    return Calibration(
        model=bundle.manifest.model,
        fingerprint=bundle.manifest.fingerprint,
        preprocessing=bundle.manifest.preprocessing.to_json(),
        settings=settings,
        points=points,
        references=References(1.0, {"atc_confidence": {"threshold": 0.5}}),
        description="by hand",
        engine="onnxruntime",
    )


@functools.cache
def _photograph(name: str) -> Image:
    return read_image(_FILES[name])


@functools.cache
def _trained() -> dict[str, Tensor]:
    images, labels = crops(100, seed=1)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)
    y = torch.from_numpy(labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting for each other costs more than so little work
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = network()
            optimizer = torch.optim.Adam(module.parameters(), 0.01)
            for _ in range(5):
                for part in torch.randperm(len(x)).reshape(-1, 60):
                    optimizer.zero_grad()
                    loss = nn.functional.cross_entropy(module(x[part]), y[part])
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return module.state_dict()
