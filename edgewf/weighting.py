"""What was read back of frames that stand for unequal shares of a stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import BurstRecord


def chosen(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return N of N frames such that frame i occurs about w_i times, int64 [N], ascending.

    Systematic resampling (Kitagawa, "Monte Carlo Filter and Smoother", JCGS 5, 1996, appendix),
    with 1/2 in place of its random number: a frame of weight w occurs floor(w) or ceil(w) times.

    Args:
        weights: float64 [N], none negative, with mean 1.
    """
    ends = np.cumsum(weights)
    marks = (np.arange(len(weights)) + 0.5) * (ends[-1] / len(weights))
    return np.asarray(np.searchsorted(ends, marks, side="right"), np.int64)


def reweighted(record: BurstRecord, weights: NDArray[np.float64]) -> BurstRecord:
    """Return a record of as many frames in which each occurs as often as its weight says.

    So scores that are means, shares or counts over frames become weighted ones.
    """
    frames = chosen(weights)
    return replace(
        record,
        deployed=record.deployed[frames],
        before=record.before[frames],
        after=record.after[frames],
        dropout=None if record.dropout is None else record.dropout[:, frames],
    )


def effective_frames(weights: NDArray[np.float64]) -> float:
    """Return how many frames of equal weight tell as much: (sum w)^2 / sum w^2 (Kish, 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())
