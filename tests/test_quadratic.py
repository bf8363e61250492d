"""The paper's f: a monotone quadratic and its interval."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize  # type: ignore[import-untyped]

from edgewf.errors import EdgewfError
from edgewf.estimators.interval import chance
from edgewf.estimators.quadratic import Quadratic

# Multiples of a flip among 250 frames, so that windows that flip alike are common.
FLIPS = st.integers(0, 250).map(lambda n: 4.0 * n)
CLOUDS = st.lists(st.tuples(FLIPS, st.floats(0, 100)), min_size=4, max_size=30)


@given(
    a=st.floats(0, 1e-3),
    bend=st.floats(-0.5, -0.01),
    c=st.floats(20, 100),
    low=st.floats(0, 300),
    width=st.floats(20, 500),
)
@settings(deadline=None)
def test_recovers_a_quadratic(a: float, bend: float, c: float, low: float, width: float) -> None:
    high = low + width
    b = bend - 2 * a * high  # so that it falls on the whole range
    x = np.linspace(low, high, 7)
    f = Quadratic.fit(x, a * x**2 + b * x + c)
    np.testing.assert_allclose([f.a, f.b], [a, b], rtol=1e-6, atol=1e-6)
    assert f.c == pytest.approx(c, rel=1e-6, abs=1e-4)
    assert (f.low, f.high, f.points) == (low, x[-1], 7)
    assert f.residual_std < 1e-4


@pytest.mark.parametrize("rising", [False, True])
@given(cloud=CLOUDS)
@settings(deadline=None)
def test_is_monotone_everywhere_and_a_percentage(
    rising: bool, cloud: list[tuple[float, float]]
) -> None:
    x, y = np.array(cloud).T
    assume(np.ptp(x) > 0)
    f = Quadratic.fit(x, y, rising=rising)
    grid = np.concatenate([np.linspace(f.low, f.high, 40), np.linspace(-500, 2000, 60)])
    values = [f(float(v)) for v in sorted(grid)]
    steps = np.diff(values) * (1 if rising else -1)
    assert steps.min() >= -1e-5
    assert min(values) >= 0
    assert max(values) <= 100


def least_squares_of_falling(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The least sum of squares among quadratics that fall on the range, found numerically.

    On [0, 1] they are c - s (u - u^2 / 2) - t u^2 / 2, where the slopes s at 0 and t at 1 are not
    negative.
    """
    u = (x - x.min()) / np.ptp(x)
    columns = np.stack([-(u - u**2 / 2), -(u**2) / 2, np.ones_like(u)], axis=1)
    found = optimize.lsq_linear(columns, y, ([0, 0, -np.inf], np.inf), method="bvls", tol=1e-14)
    assert found.success
    return float(2 * found.cost)


@given(cloud=CLOUDS)
@settings(max_examples=60, deadline=None)
def test_no_falling_quadratic_fits_better(cloud: list[tuple[float, float]]) -> None:
    x, y = np.array(cloud).T
    assume(np.ptp(x) > 0)
    f = Quadratic.fit(x, y)
    squares = float(((f.a * x**2 + f.b * x + f.c - y) ** 2).sum())
    assert squares == pytest.approx(least_squares_of_falling(x, y), rel=1e-7, abs=1e-6)
    assert f.residual_std == pytest.approx(math.sqrt(squares / (len(x) - 3)))


CONSTRAINED = {
    # A hump: flat at the lower end, then falling.
    "rises first": lambda x: 50 + 0.2 * x - 1e-3 * x**2,
    # A bowl: falling, then flat at the upper end.
    "rises last": lambda x: 90 - 0.5 * x + 2e-3 * x**2,
    "only rises": lambda x: 20 + 0.3 * x,
}


@pytest.mark.parametrize("name", CONSTRAINED)
def test_the_constraint_binds(name: str) -> None:
    x = np.linspace(0, 200, 21)
    y = CONSTRAINED[name](x)
    f = Quadratic.fit(x, y)
    slopes = [2 * f.a * end + f.b for end in (0.0, 200.0)]
    assert max(slopes) == pytest.approx(0, abs=1e-9)
    if name == "only rises":
        assert (f.a, f.b, f.c) == pytest.approx((0, 0, y.mean()))
    squares = float(((f.a * x**2 + f.b * x + f.c - y) ** 2).sum())
    assert squares == pytest.approx(least_squares_of_falling(x, y), rel=1e-9)


def test_rising_is_falling_in_the_mirror() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(40, 99, 12)  # as when average confidence is calibrated
    y = np.clip(x - 10 + rng.normal(0, 4, 12), 0, 100)
    up, down = Quadratic.fit(x, y, rising=True), Quadratic.fit(-x, y)
    for value in (0.0, 50.0, 70.0, 100.0):
        assert up(value) == pytest.approx(down(-value))
    assert up(90.0) > up(50.0)


def test_continues_along_its_tangents_and_clips() -> None:
    f = Quadratic(1e-3, -0.5, 80.0, 20.0, 120.0, 2.0, 0.0, 10)
    assert f(20) == pytest.approx(70.4)
    assert f(120) == pytest.approx(34.4)
    assert f(10) == pytest.approx(70.4 + 10 * 0.46)  # slope at 20: -0.46
    assert f(130) == pytest.approx(34.4 - 10 * 0.26)  # slope at 120: -0.26
    assert f(-200) == 100.0
    assert f(1000) == 0.0


def test_the_published_function_evaluates() -> None:
    # ResNet-50 on ImageNet, 990 steps of 64, from the authors' code.
    f = Quadratic(3.55553868e-4, -0.321445023, 75.6618580, 0.0, 450.0, 3.0, 0.0, 20)
    assert f(0) == pytest.approx(75.661858)
    assert f(100) == pytest.approx(47.072894, abs=1e-5)
    assert f(200) == pytest.approx(25.595, abs=1e-3)
    assert f(450) == pytest.approx(3.01139, abs=1e-3)


@pytest.mark.parametrize(
    ("x", "different"), [([], 0), ([1.0, 2.0, 3.0], 3), ([5.0] * 6, 1), ([1.0, 1.0, 2.0], 2)]
)
def test_points_that_fix_no_curve_are_refused(x: list[float], different: int) -> None:
    message = f"{len(x)} calibration points with {different} different values.*need at least 4"
    with pytest.raises(EdgewfError, match=message):
        Quadratic.fit(x, np.arange(len(x)))


@settings(deadline=None)
@given(x=st.floats(-100, 1500), frames=st.integers(2, 10_000), spread=st.floats(0, 30))
def test_interval_holds_the_estimate_and_narrows_with_frames(
    x: float, frames: int, spread: float
) -> None:
    f = Quadratic(1e-4, -0.2, 80.0, 0.0, 400.0, spread, 0.0, 21)
    low, high = f.interval(x, frames=frames)
    assert 0 <= low <= f(x) <= high <= 100
    fewer = f.interval(x, frames=frames // 2)
    assert fewer[0] <= low
    assert high <= fewer[1]
    assert low < f(x) or f(x) == 0
    assert f(x) < high or f(x) == 100


def test_interval_by_hand() -> None:
    # Binomial: 100 sqrt(0.5 * 0.5 / 400) = 2.5 points; with 2.5 of spread sqrt(12.5) = 3.536.
    f = Quadratic(0.0, 0.0, 50.0, 0.0, 100.0, 2.5, 0.0, 1_000_003)
    low, high = f.interval(50, frames=400)
    assert (high - low) / 2 == pytest.approx(1.6449 * 3.5355, rel=1e-4)
    assert (high + low) / 2 == pytest.approx(50)
    # Points at 10 and 90 % have 1.5 points of chance in the spread: sqrt(12.5 - 2.25) = 3.202.
    low, high = replace(f, chance=chance([10, 90])).interval(50, frames=400)
    assert (high - low) / 2 == pytest.approx(1.6449 * 3.2016, rel=1e-4)
    # Nothing but chance is left where the points lie closer to the curve than chance lets them.
    low, high = replace(f, residual_std=1.0, chance=chance([10, 90])).interval(50, frames=400)
    assert (high - low) / 2 == pytest.approx(1.6449 * 2.5, rel=1e-4)


@pytest.mark.parametrize("estimate", [0.0, 100.0])
def test_few_frames_that_are_all_alike_prove_little(estimate: float) -> None:
    f = Quadratic(0.0, 0.0, estimate, 0.0, 100.0, 0.0, 0.0, 1_000_003)
    # Agresti and Coull: (4 + 1.353) of (4 + 2.706) hits, 79.8 %, so 20.06 points for four frames.
    low, high = f.interval(50, frames=400, effective=4)
    assert high - low == pytest.approx(33.0, abs=0.1)
    assert estimate in (low, high)
    assert np.subtract(*f.interval(50, frames=400, effective=1)) < -75


@pytest.mark.parametrize(("count", "student"), [(24, 1.721), (13, 1.812), (45, 1.682)])
def test_few_points_widen_the_interval_as_student_does(count: int, student: float) -> None:
    low, high = Quadratic(0.0, 0.0, 50.0, 0.0, 1.0, 5.0, 0.0, count).interval(0, frames=10**9)
    assert (high - low) / 2 / 5 == pytest.approx(student, rel=0.01)


def test_nine_in_ten_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    frames, hits, runs = 250, 0, 400
    for _ in range(runs):
        x = rng.uniform(0, 300, 42)
        p = np.clip(80 - 0.2 * x + rng.normal(0, 4, 42), 0, 100) / 100
        fitted = Quadratic.fit(x, 100 * rng.binomial(frames, p) / frames)
        new = rng.uniform(20, 280)
        p = np.clip(80 - 0.2 * new + rng.normal(0, 4), 0, 100) / 100
        seen = 100 * rng.binomial(frames, p) / frames
        low, high = fitted.interval(new, frames=frames)
        hits += low <= seen <= high
    assert 0.86 <= hits / runs <= 0.95
