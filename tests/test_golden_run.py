"""The paper's published code (class RDumb) against ours, on CIFAR-10 with a ResNet-20.

The golden numbers were written by that code; `golden/rdumb_cifar10_resnet20.json` beside the
data set holds them. Float32 sums differ in order between runtimes, so a long run may part ways
label by label, but early on it must not, and its weighted flips must stay close throughout.
"""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest

from edgewf.bundle import Bundle
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source
from edgewf.flips import count_flips
from edgewf.settings import BurstSettings
from tests.datasets import require

BATCH, PROBES, PROBE_BATCH = 64, 1000, 100
MARKS = (30, 100, 990)
# Selection is a threshold, so rounding errors decide on single samples and grow. On the clean
# images PyTorch 2.13 itself, running the published method in float32 on one thread, ends at 30.15
# where the golden run has 26.17: 15 % apart. There the end would test luck; and of the other two
# one is enough for a run of minutes.
TO_THE_END = ("contrast",)
SETTINGS = BurstSettings(
    objective="rdumb",
    steps=MARKS[-1],
    batch_size=BATCH,
    window=5000 // BATCH * BATCH,
    source_samples=0.0,
    learning_rate=0.005,
    momentum=0.9,
    entropy_margin=0.4 * math.log(10),
    redundancy_margin=0.4,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    weights = require("cifar10-resnet", "resnet20-12fca82f.th")
    source = load_source(
        "tests.cifar_resnet:resnet20",
        weights=str(weights),
        image_size=32,
        resize=32,
    )
    return export_bundle(source, tmp_path_factory.mktemp("golden") / "resnet20")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    root = require("cifar10")
    files = sorted(root.glob("*/*.jpg"), key=lambda p: (p.parent.name, p.name))
    return np.stack([cv2.cvtColor(cv2.imread(str(f)), cv2.COLOR_BGR2RGB) for f in files])


def shifted(images: np.ndarray, shift: str) -> np.ndarray:
    x = images.astype(np.float64) / 255
    if shift == "noise":
        x = x + np.random.default_rng(1).normal(0, 0.08, x.shape)
    elif shift == "contrast":
        # Of the whole image: this reproduces the golden run's accuracy and labels, and the mean of
        # each channel does not.
        mean = x.mean(axis=(1, 2, 3), keepdims=True)
        x = mean + 0.35 * (x - mean)
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("shift", ["clean", "noise", "contrast"])
def test_run_agrees_with_the_published_code(bundle: Bundle, images: np.ndarray, shift: str) -> None:
    folder = require("golden")
    golden = json.loads((folder / "rdumb_cifar10_resnet20.json").read_text())[shift]
    arrays = np.load(folder / "rdumb_cifar10_resnet20.npz")
    x = shifted(images, shift)
    probes = x[np.random.default_rng(7).permutation(len(x))[:PROBES]]
    engine = OnnxRuntimeCPU(bundle, threads=1)  # the test runner uses the other cores
    engine.reset(SETTINGS)
    for batch in np.split(probes, PROBES // PROBE_BATCH):
        engine.record(batch)
    before = engine.read().before
    assert (before.label == golden_labels(arrays, shift)).sum() >= 998

    marks = MARKS if shift in TO_THE_END else MARKS[:-1]
    step, found = 0, {}
    for epoch in range(math.ceil(marks[-1] / (len(x) // BATCH))):
        order = np.random.default_rng(100 + epoch).permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            if step in marks:
                found[step] = probe(engine, probes, before)
            if step == marks[-1]:
                break
            engine.step(x[order[start : start + BATCH]])
            step += 1
    found.setdefault(marks[-1], probe(engine, probes, before))

    steps = engine.read().steps[:30]
    trace = golden["trace"][:30]
    entropy = [t["mean_entropy"] for t in trace]
    np.testing.assert_allclose([s.mean_entropy for s in steps], entropy, rtol=0.01)
    # Sums in another order move a sample over a margin sooner or later, and then the runs part.
    for key, ours in (
        ("reliable", [s.reliable for s in steps]),
        ("selected", [s.selected for s in steps]),
    ):
        theirs = [t[key] for t in trace]
        assert ours[:20] == theirs[:20]
        np.testing.assert_allclose(ours[20:], theirs[20:], atol=2)
    for mark in marks:
        expected = golden["marks"][str(mark)]["weighted_flips"]
        tolerance, slack = (0.05, 1.0) if mark <= 100 else (0.10, 0.0)
        assert abs(found[mark] - expected) <= max(tolerance * expected, slack)


def probe(engine: OnnxRuntimeCPU, probes: np.ndarray, before: object) -> float:
    """Weighted flips per 1,000 from the labels under batch statistics, the paper's count."""
    labels = np.concatenate(
        [engine.adapted_logits(b).argmax(axis=1) for b in np.split(probes, PROBES // PROBE_BATCH)]
    )
    return count_flips(before, labels).weighted


def golden_labels(arrays: np.lib.npyio.NpzFile, shift: str) -> np.ndarray:
    return arrays[f"{shift}_pred_0"]
