"""Confidence optimal transport (Lu et al., NeurIPS 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import BurstRecord, Float32
from edgewf.estimators.rows import blocks
from edgewf.estimators.score import Labels, Reference
from edgewf.estimators.threshold import share_above, split
from edgewf.estimators.transport import transport
from edgewf.kernels.reference import softmax_entropy

# Classes that no frame gives more probability than this count as one. It bounds the error of a
# frame's cost, and keeps the problem small where there are tens of thousands of classes.
_NEGLIGIBLE = 1e-3


def frame_costs(logits: Float32, labels: Labels) -> NDArray[np.float64]:
    """Return what it costs to carry each frame's probabilities to labels, float64 [N], 0 to 1.

    Optimal transport between the frames' probabilities p_i and one-hot labels e_y, whose cost
    |p_i - e_y|_1 / 2 is 1 - p_iy. The labels follow the distribution of clean images: the paper
    draws N of them from a known or counted one. Here nothing is drawn, each class takes its share
    of N as a real number, and the shares are the posterior mean (n_k + 1) / (n + K) of n clean
    labels, so that a class that they happen to lack is not ruled out.

    Args:
        logits: [N, K] of the window, N at least 1.
        labels: int64 [n] of clean images.
    """
    frames, classes = logits.shape
    count = np.bincount(labels, minlength=classes) + 1.0
    capacity = count * (frames / count.sum())
    largest = np.zeros(classes)
    for part in blocks(frames, classes):
        np.maximum(largest, softmax_entropy(logits[part])[0].max(axis=0), out=largest)
    kept = np.flatnonzero(largest > _NEGLIGIBLE)
    cost = np.ones((frames, len(kept) + 1))
    for part in blocks(frames, classes):
        cost[part, :-1] -= softmax_entropy(logits[part])[0][:, kept]
    rest = max(0.0, frames - float(capacity[kept].sum()))
    flow = transport(cost, np.append(capacity[kept], rest))
    return np.asarray((flow * cost).sum(axis=1))


@dataclass(frozen=True)
class ConfidenceOptimalTransport:
    """1 - the mean transport cost, 0 to 1: an accuracy without any fit.

    Lu et al., "Characterizing Out-of-Distribution Error via Optimal Transport", NeurIPS 2023,
    section 4.1. Never above the average confidence; lower, too, where predictions crowd on fewer
    classes than clean labels do. Needs windows with many frames a class to be an accuracy.
    """

    name: str = "cot"

    def reference(self, clean: BurstRecord, labels: Labels) -> dict[str, Any]:
        """Return the labels, in order."""
        return {"labels": np.sort(labels).tolist()}

    def __call__(self, record: BurstRecord, reference: Reference) -> float:
        """Return 1 - the mean cost."""
        labels = np.asarray(reference["labels"], np.int64)
        return float(1 - frame_costs(record.deployed.logits, labels).mean())


@dataclass(frozen=True)
class ThresholdedOptimalTransport:
    """COTT: share of frames whose transport cost is at most t, 0 to 1 (section 4.2 there).

    On clean images as many costs lie above t as frames are misclassified.
    """

    name: str = "cott"

    def reference(self, clean: BurstRecord, labels: Labels) -> dict[str, Any]:
        """Return the labels, in order, and -t."""
        wrong = int((clean.deployed.label != labels).sum())
        savings = -frame_costs(clean.deployed.logits, labels)
        return {"labels": np.sort(labels).tolist(), "threshold": split(savings, wrong)}

    def __call__(self, record: BurstRecord, reference: Reference) -> float:
        """Return the share of frames whose cost is at most t."""
        labels = np.asarray(reference["labels"], np.int64)
        savings = -frame_costs(record.deployed.logits, labels)
        return share_above(savings, reference["threshold"])
