"""Windows of labelled images: those estimators are calibrated on, and others to judge them by.

Images are split once by file. Calibration windows come from the first half and are shifted by
edgewf's own four corruptions; all others come from the second half and are shifted by the fifteen
corruptions of ImageNet-C, which are not among those four.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from imagecorruptions import corrupt, get_corruption_names
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.engines import Images
from edgewf.errors import EdgewfError
from edgewf.images import labelled_images, read_image
from edgewf.shifts import SEVERITIES, SHIFTS, calibration_shifts, shift

Cell = tuple[str, int]  # a corruption, or two joined by "+", and its severity
Labelled = Sequence[tuple[Path, int]]
CLEAN: Cell = ("clean", 0)
CORRUPTIONS: list[str] = get_corruption_names("common")
CELLS: list[Cell] = [(name, s) for name in CORRUPTIONS for s in SEVERITIES]
PAIRS: list[Cell] = [
    (f"{first}+{CORRUPTIONS[(i + 7) % len(CORRUPTIONS)]}", severity)
    for i, first in enumerate(CORRUPTIONS)
    for severity in (1, 3)
]
_SEEDED = ("impulse_noise", "glass_blur")  # these take a seed of their own
FEW = (0.1, 0.2, 0.5)  # of the classes
FEW_CELLS: list[Cell] = [
    CLEAN,
    *((name, 3) for name in ("gaussian_noise", "motion_blur", "fog", "jpeg_compression")),
]


@dataclass(frozen=True)
class Window:
    """Labelled images under one shift, made when they are asked for.

    Attributes:
        kind: "calibration", "corruptions", "pairs" or "few classes".
        cell: how the images are shifted.
        number: which images of the kind.
        source: the images before it.
    """

    kind: str
    cell: Cell
    number: int
    source: Source

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.kind.replace(' ', '-')}-{self.number}-{self.cell[0]}-{self.cell[1]}"

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return int64 [N]."""
        return self.source.labels

    def images(self) -> Images:
        """Return the shifted images."""
        return shifted(self.source.images(), self.cell, self.number)


class Source:
    """Images before any shift, read when they are first asked for."""

    def __init__(self, bundle: Bundle, chosen: Labelled, varied: bool = False) -> None:
        """Take labelled images; varied ones are cropped and mirrored at random."""
        self.labels = np.array([label for _, label in chosen], np.int64)
        self._preprocess = bundle.manifest.preprocessing
        self._paths = [path for path, _ in chosen]
        self._varied = varied
        self._images: Images | None = None

    def images(self) -> Images:
        """Return uint8 [N, S, S, 3]."""
        if self._images is None:
            self._images = np.stack([self._one(i, path) for i, path in enumerate(self._paths)])
        return self._images

    def _one(self, number: int, path: Path) -> Images:
        image = read_image(path)
        if self._varied:
            rng = np.random.default_rng([number, 1])
            share = rng.uniform(0.75, 1)
            height, width = (round(share * side) for side in image.shape[:2])
            top, left = (
                rng.integers(side - part + 1)
                for side, part in zip(image.shape[:2], (height, width), strict=True)
            )
            image = image[top : top + height, left : left + width]
            if rng.random() < 0.5:
                image = image[:, ::-1]
            image = np.ascontiguousarray(image)
        return self._preprocess(image)


def windows(bundle: Bundle, data: Path, frames: int, calibrations: int) -> list[Window]:
    """Return all windows of `frames` images each; `calibrations` of them to be shifted and fitted.

    Raises:
        EdgewfError: half of the images are too few for that.
    """
    images = labelled_images(data, bundle.labels)
    order = np.random.default_rng(0).permutation(len(images))
    first, second = ([images[i] for i in part] for part in np.split(order, [len(order) // 2]))
    if len(first) < calibrations * frames:
        raise EdgewfError(
            f"{data}: half of its {len(order)} images are fewer than {calibrations} windows of "
            f"{frames}"
        )
    found = []
    for w in range(calibrations):
        source = Source(bundle, first[w * frames : (w + 1) * frames])
        found += [Window("calibration", cell, w, source) for cell in calibration_shifts()]
    source = Source(bundle, second[:frames])
    found += [Window("corruptions", cell, 0, source) for cell in (CLEAN, *CELLS)]
    found += [Window("pairs", cell, 0, source) for cell in PAIRS]
    for number, share in enumerate(FEW):
        source = Source(bundle, few_classes(second, share, frames, number), varied=True)
        found += [Window("few classes", cell, number, source) for cell in FEW_CELLS]
    return found


def few_classes(images: Labelled, share: float, frames: int, seed: int) -> list[tuple[Path, int]]:
    """Draw frames from images of a share of their classes, in turns until there are enough."""
    rng = np.random.default_rng([seed, 2])
    classes = np.unique([label for _, label in images])
    kept = rng.choice(classes, max(1, round(share * len(classes))), replace=False)
    pool = [images[i] for i in rng.permutation(len(images)) if images[i][1] in kept]
    return [pool[i % len(pool)] for i in range(frames)]


def stream(bundle: Bundle, data: Path) -> Source:
    """Return all images of the half that windows are judged on."""
    images = labelled_images(data, bundle.labels)
    order = np.random.default_rng(0).permutation(len(images))
    return Source(bundle, [images[i] for i in order[len(order) // 2 :]])


def shifted(images: Images, cell: Cell, seed: int) -> Images:
    """Apply one of edgewf's own shifts, another ImageNet-C corruption, or two of those in turn.

    The same call always returns the same images.
    """
    names, severity = cell
    if severity == 0:
        return images
    if names in SHIFTS:
        return shift(names, images, severity, seed=seed)
    for name in names.split("+"):
        np.random.seed(severity + 100 * seed)  # most of the package draws from this generator
        images = np.stack(
            [
                corrupt(x, severity, name, **({"seed": i} if name in _SEEDED else {}))
                for i, x in enumerate(images)
            ]
        )
    return images


def of_kind(found: Sequence[Window], *kinds: str) -> Iterator[Window]:
    """Yield the windows of some kinds."""
    return (window for window in found if window.kind in kinds)
