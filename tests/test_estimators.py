"""Scores of a window, the plane that makes an accuracy of them, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize  # type: ignore[import-untyped]

from edgewf.errors import EdgewfError
from edgewf.estimators import NAMES
from edgewf.estimators.fitted import fit
from edgewf.estimators.linear import Linear
from edgewf.estimators.scores import certainty, nuclear_norm, soft_agreement

SEEDS = st.integers(0, 2**32 - 1)


def logits(rng: np.random.Generator, frames: int, classes: int) -> NDArray[np.float32]:
    return rng.normal(0, 3, (frames, classes)).astype(np.float32)


def test_soft_agreement_by_hand() -> None:
    p = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    q = np.log(np.array([[0.25, 0.75], [0.2, 0.8]], np.float32))
    # 0.5 * 0.25 + 0.5 * 0.75 = 0.5; 0.9 * 0.2 + 0.1 * 0.8 = 0.26.
    assert soft_agreement(p, q) == pytest.approx(0.38)


def test_soft_agreement_is_how_often_drawn_labels_agree() -> None:
    rng = np.random.default_rng(0)
    p, q = logits(rng, 50, 4), logits(rng, 50, 4)

    def draws(x: NDArray[np.float32]) -> NDArray[np.int64]:
        # The largest of logits with Gumbel noise is a draw from their softmax.
        return (x + rng.gumbel(size=(20_000, *x.shape))).argmax(axis=2)

    assert soft_agreement(p, q) == pytest.approx((draws(p) == draws(q)).mean(), abs=5e-3)


def test_a_frame_that_broke_under_adaptation_agrees_with_nothing() -> None:
    sure = np.array([[99.0, 0.0], [0.0, 99.0]], np.float32)
    broken = np.array([[99.0, 0.0], [np.nan, np.nan]], np.float32)
    assert soft_agreement(sure, sure) == pytest.approx(1)
    assert soft_agreement(sure, broken) == pytest.approx(0.5)


def test_certainty_by_hand() -> None:
    # Entropies ln 2 and 0 of at most ln 4.
    x = np.array([[7, 7, -99, -99], [99, 0, 0, 0]], np.float32)
    assert certainty(x) == pytest.approx(0.75)
    assert certainty(np.zeros((3, 5), np.float32)) == pytest.approx(0, abs=1e-12)


def test_certainty_of_few_classes_is_that_of_many() -> None:
    many = 5 * np.eye(6, dtype=np.float32)[np.arange(60) % 6]
    few = 5 * np.eye(6, dtype=np.float32)[np.arange(60) % 2]
    assert certainty(few) == pytest.approx(certainty(many))
    assert nuclear_norm(few) < 0.7 * nuclear_norm(many)


@pytest.mark.parametrize(("frames", "classes"), [(40, 6), (6, 40), (8, 8), (1, 5)])
def test_nuclear_norm_is_the_sum_of_singular_values(frames: int, classes: int) -> None:
    x = logits(np.random.default_rng(frames), frames, classes).astype(np.float64)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    expected = np.linalg.svd(p, compute_uv=False).sum() / math.sqrt(min(frames, classes) * frames)
    assert nuclear_norm(x.astype(np.float32)) == pytest.approx(expected, rel=1e-6)


def test_nuclear_norm_is_1_for_sure_and_balanced_predictions() -> None:
    sure = 200 * np.eye(5, dtype=np.float32)[np.arange(40) % 5]
    assert nuclear_norm(sure) == pytest.approx(1)
    same = 200 * np.eye(5, dtype=np.float32)[np.zeros(40, int)]
    assert nuclear_norm(same) == pytest.approx(1 / math.sqrt(5))
    assert nuclear_norm(np.zeros((40, 5), np.float32)) == pytest.approx(0.2)


@given(seed=SEEDS, frames=st.integers(1, 20), classes=st.integers(2, 12))
@settings(deadline=None, max_examples=50)
def test_scores_keep_when_frames_and_classes_change_places(
    seed: int, frames: int, classes: int
) -> None:
    rng = np.random.default_rng(seed)
    p, q = logits(rng, frames, classes), logits(rng, frames, classes)
    order = np.ix_(rng.permutation(frames), rng.permutation(classes))
    lift = rng.normal(size=(frames, 1)).astype(np.float32)
    assert soft_agreement((p + lift)[order], q[order]) == pytest.approx(soft_agreement(p, q))
    assert nuclear_norm((p + lift)[order]) == pytest.approx(nuclear_norm(p), rel=1e-5)
    assert certainty((p + lift)[order]) == pytest.approx(certainty(p), abs=1e-5)
    for score in (soft_agreement(p, q), certainty(p), nuclear_norm(p)):
        assert -1e-9 <= score <= 1 + 1e-9


@given(seed=SEEDS, points=st.integers(6, 40), scores=st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_no_rising_plane_fits_better(seed: int, points: int, scores: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (points, scores))
    y = np.clip(50 + x @ rng.normal(0, 40, scores) + rng.normal(0, 5, points), 0, 100)
    plane = Linear.fit(x, y, ["a"] * points)
    assert min(plane.coefficients) >= 0
    columns = np.column_stack([np.ones(points), x])
    bounds = ([-np.inf] + [0] * scores, np.inf)
    best = optimize.lsq_linear(columns, y, bounds, method="bvls", tol=1e-14)
    squares = float(((plane.intercept + x @ plane.coefficients - y) ** 2).sum())
    assert squares == pytest.approx(2 * best.cost, rel=1e-6, abs=1e-6)


def test_residuals_are_of_fits_that_did_not_see_the_shift() -> None:
    x = np.linspace(0, 1, 12)[:, None]
    y = 20 + 60 * x[:, 0]
    y[8:] -= 12  # one kind of shift lies off the line of the others
    kinds = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    inside = Linear.fit(x, y, ["a"] * 12).residual_std
    across = Linear.fit(x, y, kinds).residual_std
    line = np.polyfit(x[:8, 0], y[:8], 1)
    assert np.polyval(line, x[8:, 0]) - y[8:] == pytest.approx(12)
    assert across > 1.5 * inside


def test_the_interval_widens_away_from_the_points() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.4, 0.6, (20, 2))
    y = 100 * x.mean(axis=1) + rng.normal(0, 2, 20)
    plane = Linear.fit(x, y, ["a"] * 20)
    widths = [np.diff(plane.interval(v, v, frames=10**9))[0] for v in (0.5, 0.6, 0.7, 0.8)]
    assert widths == sorted(widths)
    assert plane.covers(0.5, 0.5)
    assert not plane.covers(0.5, 0.7)
    assert not plane.covers(0.3, 0.5)


def test_leverage_is_that_of_ordinary_least_squares() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (30, 2))
    plane = Linear.fit(x, 20 + x @ [30, 40] + rng.normal(0, 1, 30), ["a"] * 30)
    columns = np.column_stack([np.ones(30), x])
    hat = columns @ np.linalg.inv(columns.T @ columns) @ columns.T
    found = [np.array([1, *row]) @ plane.inverse @ np.array([1, *row]) for row in x]
    np.testing.assert_allclose(found, np.diag(hat), rtol=1e-9)


def test_nine_in_ten_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    frames, hits, runs = 250, 0, 400
    for _ in range(runs):
        x = rng.uniform(0, 1, (42, 2))
        y = 10 + x @ [50, 20] + rng.normal(0, 4, 42)
        plane = Linear.fit(x, y, ["a", "b", "c"] * 14)
        new = rng.uniform(0.1, 0.9, 2)
        p = np.clip(10 + new @ [50, 20] + rng.normal(0, 4), 0, 100) / 100
        low, high = plane.interval(*new, frames=frames)
        hits += low <= 100 * rng.binomial(frames, p) / frames <= high
    assert 0.86 <= hits / runs <= 0.96


@pytest.mark.parametrize("x", [np.zeros((2, 2)), np.full((9, 2), 0.5)])
def test_points_that_fix_no_plane_are_refused(x: NDArray[np.float64]) -> None:
    with pytest.raises(EdgewfError, match=f"{len(x)} calibration points with 1 different values"):
        Linear.fit(x, np.arange(len(x)), ["a"] * len(x))


@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_falls_when_everything_gets_worse(name: str) -> None:
    def window(quality: float) -> dict[str, float]:
        flips = 600 * (1 - quality)
        names = ("weighted_flips", "flips", "weighted_flips_batch", "flips_batch")
        zero = ("weighted_zero_step", "zero_step")
        return {
            **dict.fromkeys((*names, *zero), flips),
            **dict.fromkeys(("soft_agreement", "certainty", "nuclear_norm"), quality),
            "average_confidence": 100 * quality,
        }

    qualities = np.linspace(0.1, 0.9, 9)
    fitted = fit(name, [window(q) for q in qualities], 100 * qualities, ["a"] * 9)
    values = [fitted(window(q)) for q in qualities]
    np.testing.assert_allclose(values, 100 * qualities, atol=1e-6)
    low, high = fitted.interval(window(0.5), 250)
    assert low < 50 < high
    assert fitted.covers(window(0.5))
    assert not fitted.covers(window(1.0))
