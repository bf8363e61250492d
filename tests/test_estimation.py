"""From a window to an estimate, and the flags that say when to doubt it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewf.bundle import Bundle
from edgewf.engines import Images
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.estimation import Estimator
from edgewf.estimators.scores import dispersion
from edgewf.export.exporter import export_bundle
from edgewf.export.sources import Source, imagenet_convention
from edgewf.export.torch_module import to_graph
from edgewf.kernels.reference import softmax_entropy
from edgewf.shifts import shift
from tests.tiny import (
    CLASSES,
    KEYS,
    SIDE,
    USED,
    constant_calibration,
    crops,
    export_tiny,
    network,
    tiny_settings,
)

SMALL = ("small_window",)  # every window here is
SETTINGS = tiny_settings(window=24, batch_size=8, steps=3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("estimation"))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OnnxRuntimeCPU:
    return OnnxRuntimeCPU(bundle, threads=1)


@pytest.fixture(scope="module")
def photographs() -> tuple[Images, Any]:
    return crops(4, seed=5)


def estimate(estimator: Estimator, images: Images, labels: Any = None) -> Estimate:
    return estimator(images, labels, source="here", time=12.5)


def test_a_calibrated_estimate(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    calibration = constant_calibration(bundle, SETTINGS, accuracy=60.0)
    result = estimate(Estimator(bundle, engine, calibration, SETTINGS), *photographs)
    assert result.flags == SMALL
    assert result.accuracy == pytest.approx(60.0)
    assert tuple(result.scores) == USED
    assert result.interval == calibration.estimator().interval(result.scores, 24)
    assert result.estimator == "combined"
    truth = 100 * (engine.infer(photographs[0]).argmax(axis=1) == photographs[1]).mean()
    assert result.true_accuracy == pytest.approx(truth)
    assert truth > 80
    assert (result.frames, result.steps, result.selected_share) == (24, 3, 1.0)
    assert (result.model, result.source, result.time) == ("network", "here", 12.5)
    assert 0 < result.average_confidence <= 100


def test_frames_count_as_much_as_they_weigh(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    """All weight lies on the first half, which the truth calls wrong."""
    calibration = constant_calibration(bundle, SETTINGS, accuracy=60.0)
    estimator = Estimator(bundle, engine, calibration, SETTINGS)
    images, _ = photographs
    predicted = engine.infer(images).argmax(axis=1)
    truth = np.where(np.arange(24) < 12, (predicted + 1) % 6, predicted)
    weights = np.repeat([2.0, 0.0], 12)
    even = estimator(images, truth, source="here", time=0.0)
    uneven = estimator(images, truth, weights, source="here", time=0.0)
    assert even.true_accuracy == 50.0
    assert uneven.true_accuracy == 0.0
    first = 100 * softmax_entropy(engine.infer(images[:12]))[0].max(axis=1).mean()
    assert uneven.average_confidence == pytest.approx(first)
    assert uneven.average_confidence != pytest.approx(even.average_confidence)
    # As few frames as count tell less.
    assert even.interval is not None
    assert uneven.interval is not None
    assert np.diff(uneven.interval) > np.diff(even.interval)
    # Batch statistics saw all frames, so what is said of the window stays the same.
    assert uneven.flags == even.flags
    same = estimator(images, truth, np.ones(24), source="here", time=0.0)
    assert same == even


def test_json_has_the_documented_keys(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    estimator = Estimator(bundle, engine, None, SETTINGS)
    assert list(estimate(estimator, photographs[0]).to_json()) == KEYS
    assert list(estimate(estimator, *photographs).to_json()) == [*KEYS, "true_accuracy"]


def test_same_window_and_seed_same_numbers(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    noisy = shift("speckle_noise", photographs[0], 4, seed=0)
    calibration = constant_calibration(bundle, SETTINGS)
    estimator = Estimator(bundle, engine, calibration, SETTINGS)
    first = estimate(estimator, noisy)
    estimate(estimator, photographs[0])
    assert estimate(estimator, noisy) == first
    afresh = Estimator(bundle, OnnxRuntimeCPU(bundle, threads=1), calibration, SETTINGS)
    assert estimate(afresh, noisy) == first
    assert first.weighted_flips > 0


def test_no_calibration_no_accuracy(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    result = estimate(Estimator(bundle, engine, None, SETTINGS), *photographs)
    assert result.flags == ("no_calibration", *SMALL)
    assert result.accuracy is None
    assert result.interval is None
    assert result.true_accuracy is not None


def test_scores_beyond_the_calibrated_range_are_flagged(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    noisy = shift("speckle_noise", photographs[0], 5, seed=0)
    for low, flags in ((0.99, ("extrapolating", *SMALL)), (0.0, SMALL)):
        calibration = constant_calibration(bundle, SETTINGS, low=low)
        result = estimate(Estimator(bundle, engine, calibration, SETTINGS), noisy)
        assert result.flags == flags
        assert result.weighted_flips > 1


def test_a_burst_that_selects_nothing_is_flagged(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    # No entropy is below 0, so nothing adapts, whatever the pictures are.
    settings = SETTINGS.with_changes(objective="rdumb", entropy_margin=0.0)
    calibration = constant_calibration(bundle, settings)
    result = estimate(Estimator(bundle, engine, calibration, settings), photographs[0])
    assert result.flags == ("nothing_selected", *SMALL)
    assert result.selected_share == 0
    wide = settings.with_changes(entropy_margin=9.0, redundancy_margin=2.0)
    result = estimate(
        Estimator(bundle, engine, constant_calibration(bundle, wide), wide), photographs[0]
    )
    assert result.flags == SMALL
    assert result.selected_share == 1


def test_no_steps_means_nothing_was_meant_to_be_selected(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    settings = SETTINGS.with_changes(steps=0)
    calibration = constant_calibration(bundle, settings)
    assert estimate(Estimator(bundle, engine, calibration, settings), photographs[0]).flags == SMALL


@pytest.mark.parametrize("frames", [8, 16, 24])
def test_a_window_of_one_class_is_flagged_and_tells_little(
    bundle: Bundle, engine: OnnxRuntimeCPU, frames: int
) -> None:
    settings = SETTINGS.with_changes(window=frames)
    images, labels = crops(60, seed=5)
    predicted = engine.infer(images).argmax(axis=1)
    uniform = images[(labels == 1) & (predicted == 1)][:frames]
    calibration = constant_calibration(bundle, settings)
    estimator = Estimator(bundle, engine, calibration, settings)
    narrow = estimate(estimator, uniform)
    assert narrow.flags == ("uniform_window", *SMALL)
    # As many classes as are predicted are all that its frames are a sample of.
    classes = len(CLASSES) ** dispersion(engine.infer(uniform))
    assert 1 <= classes < 2
    assert narrow.interval == pytest.approx(
        calibration.estimator().interval(narrow.scores, frames, classes), abs=0.1
    )
    assert narrow.interval[0] == 0
    assert narrow.interval[1] == 100
    mixed = images[np.random.default_rng(0).permutation(len(images))[:frames]]
    broad = estimate(estimator, mixed)
    assert broad.flags == SMALL
    assert broad.interval == calibration.estimator().interval(broad.scores, frames)


def test_another_burst_than_the_calibrations_is_refused(
    bundle: Bundle, engine: OnnxRuntimeCPU
) -> None:
    calibration = constant_calibration(bundle, SETTINGS)
    with pytest.raises(EdgewfError, match="steps 3 against 5"):
        Estimator(bundle, engine, calibration, SETTINGS.with_changes(steps=5))


def test_progress_is_passed_on(
    bundle: Bundle, engine: OnnxRuntimeCPU, photographs: tuple[Images, Any]
) -> None:
    seen: list[tuple[int, int]] = []
    Estimator(bundle, engine, None, SETTINGS)(
        photographs[0],
        source="here",
        time=0.0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (9, 9)


def test_logits_that_are_not_finite_are_an_error(
    tmp_path: Path, photographs: tuple[Images, Any]
) -> None:
    broken = network()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    source = Source(
        name="broken",
        origin="test",
        graph=to_graph(broken, "broken", SIDE),
        preprocessing=imagenet_convention(SIDE),
        labels=None,
        fingerprint="0",
    )
    bundle = export_bundle(source, tmp_path / "broken")
    estimator = Estimator(bundle, OnnxRuntimeCPU(bundle, threads=1), None, SETTINGS)
    with pytest.raises(
        EdgewfError, match="the model returned logits that are not finite on 24 of 24"
    ):
        estimate(estimator, photographs[0])
