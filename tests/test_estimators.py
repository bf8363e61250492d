"""Scores of a window, the plane that makes an accuracy of them, and its interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize  # type: ignore[import-untyped]

from edgewf.errors import EdgewfError
from edgewf.estimators import NAMES, QUADRATICS, TEMPERED
from edgewf.estimators.fitted import fit
from edgewf.estimators.scores import certainty, nuclear_norm, soft_agreement
from edgewf.estimators.stack import Stack
from edgewf.estimators.table import KEYS

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


def mixture(x: NDArray[np.float64], y: NDArray[np.float64], kinds: list[str]) -> Any:
    """Transcribe stacking: lines without each kind, then weights by a general solver."""
    unseen = np.empty_like(x)
    for kind in set(kinds):
        out = np.array([k == kind for k in kinds])
        for j in range(x.shape[1]):
            slope, _ = np.polyfit(x[~out, j], y[~out], 1)
            line = [slope, y[~out].mean() - slope * x[~out, j].mean()]
            unseen[out, j] = np.polyval(line, x[out, j]) if slope > 0 else y[~out].mean()
    m = x.shape[1]
    found = optimize.minimize(
        lambda w: ((unseen @ w - y) ** 2).mean(),
        np.full(m, 1 / m),
        bounds=[(0, 1)] * m,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12},
    )
    return found.fun, unseen


@given(seed=SEEDS, each=st.integers(3, 10), scores=st.integers(1, 3))
@example(seed=1000000, each=3, scores=3)  # every accuracy is 100, so rounding is all there is
@settings(deadline=None, max_examples=60)
def test_no_mixture_predicts_unseen_shifts_better(seed: int, each: int, scores: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (3 * each, scores))
    y = np.clip(50 + x @ rng.normal(10, 30, scores) + rng.normal(0, 5, 3 * each), 0, 100)
    kinds = ["a", "b", "c"] * each
    stack = Stack.fit(x, y, kinds)
    assert min(stack.weights) >= 0
    assert min(stack.slopes) >= 0
    assert sum(stack.weights) == pytest.approx(1)
    best, unseen = mixture(x, y, kinds)
    squares = float(((unseen @ np.array(stack.weights) - y) ** 2).mean())
    assert squares <= best * (1 + 1e-6) + 1e-9
    assert stack.residual_std >= math.sqrt(squares) * (1 - 1e-9) - 1e-9


def test_a_score_that_fails_on_some_shift_loses_its_weight() -> None:
    quality = np.linspace(0.1, 0.9, 12)
    kinds = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    fooled = quality.copy()
    fooled[:4] = 0.95  # stays sure of itself
    stack = Stack.fit(np.column_stack([quality, fooled]), 100 * quality, kinds)
    assert stack.weights == pytest.approx((1, 0))
    assert stack(0.5, 0.9) == pytest.approx(50)
    # What the second says does not count, so nothing can be wrong with it.
    assert stack.covers(0.5, 2.0)
    assert not stack.covers(0.95, 0.5)
    assert stack.formula("x", "y") == "0 +100 x +0 y"


def test_a_score_that_is_always_the_same_says_the_mean() -> None:
    y = np.array([10.0, 20, 60, 70])
    stack = Stack.fit([[0.1, 5.0], [0.2, 5.0], [0.6, 5.0], [0.7, 5.0]], y, ["a"] * 4)
    assert stack.slopes == pytest.approx((100, 0))
    assert stack.intercepts == pytest.approx((0, 40))
    assert stack(0.4, 7.0) == pytest.approx(40)


def test_residuals_are_of_lines_that_did_not_see_the_shift() -> None:
    x = np.linspace(0, 1, 12)[:, None]
    y = 20 + 60 * x[:, 0]
    y[8:] -= 12  # one kind of shift lies off the line of the others
    kinds = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    inside = Stack.fit(x, y, ["a"] * 12).residual_std
    across = Stack.fit(x, y, kinds).residual_std
    line = np.polyfit(x[:8, 0], y[:8], 1)
    assert np.polyval(line, x[8:, 0]) - y[8:] == pytest.approx(12)
    assert across > 1.5 * inside


def test_the_interval_widens_away_from_the_points() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.4, 0.6, (20, 2))
    y = 100 * x.mean(axis=1) + rng.normal(0, 2, 20)
    stack = Stack.fit(x, y, ["a"] * 20)
    assert min(stack.weights) > 0
    widths = [np.diff(stack.interval(v, v, frames=10**9))[0] for v in (0.5, 0.6, 0.7, 0.8)]
    assert widths == sorted(widths)
    assert stack.covers(0.5, 0.5)
    assert not stack.covers(0.5, 0.7)
    assert not stack.covers(0.3, 0.5)


def test_leverage_is_that_of_a_line() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (30, 1))
    stack = Stack.fit(x, 20 + 30 * x[:, 0] + rng.normal(0, 1, 30), ["a"] * 30)
    columns = np.column_stack([np.ones(30), x])
    hat = columns @ np.linalg.inv(columns.T @ columns) @ columns.T
    np.testing.assert_allclose([stack.leverage(*row) for row in x], np.diag(hat), rtol=1e-9)


def test_nine_in_ten_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    frames, hits, runs = 250, 0, 400
    for _ in range(runs):
        x = rng.uniform(0, 1, 42)
        both = np.column_stack([x, x + rng.normal(0, 0.05, 42)])
        p = (10 + 70 * x + rng.normal(0, 4, 42)) / 100
        seen = 100 * rng.binomial(frames, np.clip(p, 0, 1)) / frames
        stack = Stack.fit(both, seen, ["a", "b", "c"] * 14)
        new = rng.uniform(0.1, 0.9)
        p = np.clip(10 + 70 * new + rng.normal(0, 4), 0, 100) / 100
        low, high = stack.interval(new, new + rng.normal(0, 0.05), frames=frames)
        hits += low <= 100 * rng.binomial(frames, p) / frames <= high
    assert 0.86 <= hits / runs <= 0.96


@pytest.mark.parametrize("x", [np.zeros((2, 2)), np.full((9, 2), 0.5)])
def test_points_that_fix_no_line_are_refused(x: NDArray[np.float64]) -> None:
    with pytest.raises(EdgewfError, match=f"{len(x)} calibration points with 1 different values"):
        Stack.fit(x, np.arange(len(x)), ["a"] * len(x))


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}{TEMPERED}" for name in QUADRATICS)])
def test_every_estimator_falls_when_everything_gets_worse(name: str) -> None:
    def window(quality: float) -> dict[str, float]:
        rising = dict.fromkeys(KEYS, quality)
        falling = [x for x in KEYS if ("flips" in x or "zero_step" in x) and "agreement" not in x]
        return {**rising, **dict.fromkeys(falling, 600 * (1 - quality))}

    qualities = np.linspace(0.1, 0.9, 9)
    fitted = fit(name, [window(q) for q in qualities], 100 * qualities, ["a"] * 9)
    values = [fitted(window(q)) for q in qualities]
    np.testing.assert_allclose(values, 100 * qualities, atol=1e-6)
    low, high = fitted.interval(window(0.5), 250)
    assert low < 50 < high
    assert fitted.covers(window(0.5))
    assert not fitted.covers(window(1.0))
