"""Reasons to doubt an estimate, each where it holds and not where it does not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.engines import BurstRecord, Images, Predictions, StepTrace
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.flags import REASONS, UsualClasses, effective_classes, window_flags
from edgewf.stream.similarity import duplicated_share
from tests.tiny import crops, export_tiny, tiny_settings

STEP = StepTrace(50, 1.0, 50, 50, True)


def predictions(labels: NDArray[np.int64]) -> Predictions:
    return Predictions(labels, np.full(len(labels), 0.9), np.zeros((len(labels), 10), np.float32))


MIXED = predictions(np.arange(200) % 10)
FEW = predictions(np.arange(200) % 3)
ONE = predictions(np.zeros(200, np.int64))
FINE = BurstRecord(MIXED, MIXED, MIXED, (STEP,), 0.1)


def test_nothing_is_wrong_with_a_mixed_window() -> None:
    assert window_flags(FINE, 1.0, 0.0, False) == ()
    assert window_flags(FINE, 0.06, 0.09, False) == ()


@pytest.mark.parametrize(
    ("flag", "record", "selected", "duplicated", "crowded"),
    [
        ("nothing_selected", FINE, 0.04, 0.0, False),
        ("uniform_window", FINE, 1.0, 0.0, True),
        ("uniform_window", replace(FINE, deployed=ONE), 1.0, 0.0, False),
        ("duplicated_frames", FINE, 1.0, 0.11, False),
        ("collapse", replace(FINE, after=FEW), 1.0, 0.0, False),
    ],
)
def test_each_flag(
    flag: str, record: BurstRecord, selected: float, duplicated: float, crowded: bool
) -> None:
    assert window_flags(record, selected, duplicated, crowded) == (flag,)
    assert flag in REASONS


def test_a_small_window_is_flagged() -> None:
    small = predictions(np.arange(99) % 10)
    record = BurstRecord(small, small, small, (), 0.0)
    assert window_flags(record, 0.0, 0.0, False) == ("small_window",)


def test_a_failing_network_predicts_few_classes_and_a_narrow_camera_too() -> None:
    usual = UsualClasses(((90.0, 10.0), (70.0, 9.0), (40.0, 5.0), (15.0, 2.0), (20.0, 4.0)), 10)

    def few(estimate: float, classes: float) -> bool:
        found = usual.few(estimate, math.log10(classes))
        assert found is None or found == pytest.approx(classes)
        return found is not None

    assert not few(15.0, 2.0)  # it fails
    assert few(90.0, 2.0)  # it cannot be that good and see so few
    assert few(60.0, 6.5)
    assert not few(60.0, 7.5)
    assert few(18.0, 3.0)  # one as low was at 15 %, but those above had more
    assert not few(18.0, 3.3)
    assert few(99.0, 7.0)  # beyond the best, as at the best
    assert not few(99.0, 8.5)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(1, 1000)), min_size=1, max_size=9),
    st.floats(0, 100),
    st.floats(0, 1),
)
def test_fewer_classes_or_a_higher_estimate_never_look_less_crowded(
    windows: list[tuple[float, float]], estimate: float, dispersion: float
) -> None:
    usual = UsualClasses(tuple(windows), 1000)
    if usual.few(estimate, dispersion) is not None:
        assert usual.few(estimate, 0.9 * dispersion) is not None
        assert usual.few(min(estimate + 10, 100), dispersion) is not None
    # Nothing is unusual about a calibration window that the others have no fewer classes than.
    fewest = min(windows, key=lambda x: x[1])
    assert usual.few(fewest[0], math.log(fewest[1], 1000)) is None
    alike = UsualClasses(((fewest[0], 100.0), (fewest[0] / 2, 10.0)), 1000)
    assert alike.few(fewest[0] / 2, math.log(11, 1000)) is None


def test_effective_classes() -> None:
    assert effective_classes(np.array([3, 3, 3])) == 1
    assert effective_classes(np.array([0, 5, 0, 5])) == pytest.approx(2)
    assert effective_classes(np.arange(250)) == pytest.approx(250)
    assert 1 < effective_classes(np.array([0] * 99 + [1])) < 1.1


def test_repeated_shots_are_duplicates_and_other_pictures_are_not() -> None:
    images, _ = crops(4, seed=5)
    rng = np.random.default_rng(0)
    shots = np.clip(images + rng.normal(0, 4, images.shape), 0, 255).astype(np.uint8)
    assert duplicated_share(images) == 0
    assert duplicated_share(np.concatenate([images, shots])) == 0.5
    assert duplicated_share(np.stack([images[0]] * 8)) == 7 / 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("flags"))


def test_a_long_burst_on_pictures_of_nothing_collapses(bundle: Bundle) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
    engine = OnnxRuntimeCPU(bundle, threads=1)

    def flags(images: Images, **changes: object) -> tuple[str, ...]:
        settings = tiny_settings(window=120, batch_size=60, **changes)
        burst = run_burst(engine, images, settings)
        return window_flags(burst.record, burst.selected_share, 0.0, False)

    assert "collapse" not in flags(noise, steps=5)
    assert flags(crops(20, seed=5)[0], steps=60, learning_rate=0.3) == ()
    assert "collapse" in flags(noise, steps=60, learning_rate=0.3)
