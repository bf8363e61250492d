"""Frames that stand for unequal shares of a stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewf.engines import BurstRecord, Float32, Predictions
from edgewf.estimators.table import evaluate
from edgewf.weighting import chosen, effective_frames, reweighted


def predictions(logits: Float32) -> Predictions:
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(logits.argmax(axis=1), p.max(axis=1), logits)


def record(frames: int, seed: int = 0) -> BurstRecord:
    rng = np.random.default_rng(seed)
    deployed, before, after = (
        predictions(rng.normal(0, 2, (frames, 5)).astype(np.float32)) for _ in range(3)
    )
    return BurstRecord(deployed, before, after, (), 0.0)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60).filter(lambda x: sum(x) > 0.1))
def test_each_frame_occurs_as_often_as_its_weight_says(found: list[float]) -> None:
    weights = np.array(found) / np.mean(found)
    frames = chosen(weights)
    assert len(frames) == len(weights)
    assert (np.diff(frames) >= 0).all()
    counts = np.bincount(frames, minlength=len(weights))
    assert (np.abs(counts - weights) < 1 + 1e-6).all()


def test_equal_weights_change_nothing() -> None:
    for frames in (1, 7, 250, 512):
        assert chosen(np.ones(frames)).tolist() == list(range(frames))
        assert effective_frames(np.ones(frames)) == frames


def test_scores_become_weighted_means() -> None:
    """Frames of one half count three times as much as those of the other."""
    whole = record(400)
    weights = np.repeat([0.5, 1.5], 200)
    halves = [np.arange(200), np.arange(200, 400)]
    for key in ("flips", "soft_agreement", "average_confidence", "certainty"):
        parts = [
            evaluate(
                [key],
                BurstRecord(whole.deployed[i], whole.before[i], whole.after[i], (), 0.0),
                None,
            )[key]
            for i in halves
        ]
        got = evaluate([key], reweighted(whole, weights), None)[key]
        plain = evaluate([key], whole, None)[key]
        expected = np.average(parts, weights=[1, 3])
        assert abs(got - expected) < 0.25 * abs(parts[0] - parts[1]) + 0.02 * abs(plain)
    assert effective_frames(weights) == pytest.approx(400 * 0.8)
