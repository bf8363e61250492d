"""Counting flips: worked by hand, and what holds for all windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from edgewf.engines import Predictions
from edgewf.flips import Flips, count_flips, rank_weights

# Few values, so that ties are common.
CONFIDENCES = st.lists(st.sampled_from([0.2, 0.3, 0.5, 0.7, 0.99, 1.0]), min_size=1, max_size=40)


def predictions(label: list[int], confidence: list[float]) -> Predictions:
    logits = np.zeros((len(label), 2), np.float32)  # not looked at
    return Predictions(np.array(label, np.int64), np.array(confidence), logits)


def after(*labels: int) -> NDArray[np.int64]:
    return np.array(labels, np.int64)


def test_four_frames_by_hand() -> None:
    initial = predictions([3, 1, 4, 1], [0.9, 0.2, 0.5, 0.7])  # ranks 4, 1, 2, 3 of 4
    assert count_flips(initial, after(3, 1, 4, 1)) == Flips(0.0, 0.0)
    assert count_flips(initial, after(0, 1, 4, 1)) == Flips(250.0, 250.0)
    assert count_flips(initial, after(3, 0, 4, 1)) == Flips(250.0, 62.5)
    assert count_flips(initial, after(5, 1, 5, 1)) == Flips(500.0, 375.0)
    assert count_flips(initial, after(5, 5, 5, 5)) == Flips(1000.0, 625.0)


def test_ties_share_their_average_rank() -> None:
    # In order: 0.1 has rank 1, three times 0.5 the ranks 2 to 4, 0.8 rank 5.
    weights = rank_weights(np.array([0.5, 0.1, 0.5, 0.8, 0.5]))
    np.testing.assert_allclose(weights, [0.6, 0.2, 0.6, 1.0, 0.6], rtol=1e-15)


def test_all_alike_weigh_a_little_more_than_a_half() -> None:
    np.testing.assert_array_equal(rank_weights(np.full(4, 0.25)), [0.625] * 4)


def test_no_frames_no_flips() -> None:
    assert rank_weights(np.zeros(0)).shape == (0,)
    assert count_flips(predictions([], []), after()) == Flips(0.0, 0.0)


@settings(deadline=None)
@given(confidence=CONFIDENCES)
def test_ranks_are_those_of_scipy(confidence: list[float]) -> None:
    expected = stats.rankdata(confidence) / len(confidence)
    np.testing.assert_allclose(rank_weights(np.array(confidence)), expected, rtol=1e-15)


@settings(deadline=None)
@given(confidence=CONFIDENCES)
def test_weights_sum_as_if_nothing_tied(confidence: list[float]) -> None:
    N = len(confidence)
    assert rank_weights(np.array(confidence)).sum() == pytest.approx((N + 1) / 2)


@settings(deadline=None)
@given(confidence=CONFIDENCES, data=st.data())
def test_bounds_order_and_growth(confidence: list[float], data: st.DataObject) -> None:
    N = len(confidence)
    flipped = data.draw(st.lists(st.booleans(), min_size=N, max_size=N))
    initial = predictions([0] * N, confidence)
    labels = np.array(flipped, np.int64)
    flips = count_flips(initial, labels)
    assert flips.count == pytest.approx(1000 * sum(flipped) / N)
    assert 0 <= flips.weighted <= flips.count * (1 + 1e-12)
    assert flips.weighted <= 1000 * (N + 1) / (2 * N) * (1 + 1e-12)
    assert (flips.weighted > 0) == any(flipped)

    # Where a frame stands in the window makes no difference.
    order = np.array(data.draw(st.permutations(range(N))))
    moved = initial[order]
    assert count_flips(moved, labels[order]).weighted == pytest.approx(flips.weighted)

    # One more flip counts for more.
    i = data.draw(st.integers(0, N - 1))
    more = labels.copy()
    more[i] = 1
    assert (count_flips(initial, more).weighted > flips.weighted) == (not flipped[i])


@settings(deadline=None)
@given(label=st.integers(0, 5), to=st.integers(0, 5))
def test_only_the_difference_counts_not_the_class(label: int, to: int) -> None:
    flips = count_flips(predictions([label, 9], [0.6, 0.4]), after(to, 9))
    assert flips == (Flips(0.0, 0.0) if label == to else Flips(500.0, 500.0))
