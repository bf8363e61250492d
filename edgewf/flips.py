"""Counting the predictions that a burst changed (Press et al., ICML 2024, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import Predictions

PER = 1000  # counts are reported per so many frames, so that windows may differ in size


@dataclass(frozen=True)
class Flips:
    """Flips among N frames, per 1,000 of them.

    Attributes:
        count: labels that differ.
        weighted: the same, each weighted by the rank of its initial confidence, see
            `rank_weights`.
    """

    count: float
    weighted: float


def rank_weights(confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return float64 [N]: rank of each confidence from 1, the average where tied, divided by N.

    A prediction that was sure of itself and flips all the same says more than a wavering one.
    """
    if len(confidence) == 0:
        return np.zeros(0)
    _, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    average = last - (size - 1) / 2
    ranks: NDArray[np.float64] = average[group] / len(confidence)
    return ranks


def count_flips(initial: Predictions, after: NDArray[np.int64]) -> Flips:
    """Count the frames whose label after the burst is not the initial one.

    Args:
        initial: labels and confidences of N frames before the burst.
        after: int64 [N], labels after it.
    """
    flipped = initial.label != after
    if len(flipped) == 0:
        return Flips(0.0, 0.0)
    scale = PER / len(flipped)
    return Flips(
        count=float(flipped.sum() * scale),
        weighted=float(rank_weights(initial.confidence)[flipped].sum() * scale),
    )
