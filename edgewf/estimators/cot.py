"""Confidence optimal transport (Lu et al., NeurIPS 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewf.engines import BurstRecord, Float32
from edgewf.estimators.rows import Float64, blocks
from edgewf.estimators.score import Clean, Labels, Reference
from edgewf.estimators.threshold import share_above, split
from edgewf.estimators.transport import transport
from edgewf.kernels.reference import softmax_entropy

# A frame to which no class is left that it gives more probability than this goes anywhere at full
# cost. It bounds the error of the mean cost, and spares the search for gains that do not matter.
_NEGLIGIBLE = 1e-3


def label_shares(labels: Labels, classes: int) -> Float64:
    """Return the share of each class, float64 [K], estimated from n labels.

    lambda / K + (1 - lambda) n_k / n: counted shares, drawn to the uniform distribution as far as
    so few labels leave it possible (Hausser and Strimmer, "Entropy Inference and the James-Stein
    Estimator", JMLR 10, 2009, equations 5 and 6). So classes that a few clean images happen to
    lack are not ruled out.
    """
    counted = np.bincount(labels, minlength=classes) / len(labels)
    variance = 1 - float((counted**2).sum())
    distance = (len(labels) - 1) * float(((counted - 1 / classes) ** 2).sum())
    toward_uniform = min(1.0, variance / distance) if distance > 0 else 1.0
    return np.asarray(toward_uniform / classes + (1 - toward_uniform) * counted)


def frame_costs(logits: Float32, labels: Labels) -> Float64:
    """Return what it costs to carry each frame's probabilities to labels, float64 [N], 0 to 1.

    Optimal transport between the frames' probabilities p_i and one-hot labels e_y, whose cost
    |p_i - e_y|_1 / 2 is 1 - p_iy. The labels follow the distribution of clean images: the paper
    draws N of them from a known or counted one. Here nothing is drawn: each class takes its share
    of N as a real number, see `label_shares`.

    Args:
        logits: [N, K] of the window, N at least 1.
        labels: int64 [n] of clean images, n at least 1.
    """
    frames, classes = logits.shape
    largest = np.zeros(classes)
    for part in blocks(frames, classes):
        np.maximum(largest, softmax_entropy(logits[part])[0].max(axis=0), out=largest)
    kept = np.flatnonzero(largest > _NEGLIGIBLE)
    gain = np.full((frames, len(kept) + 1), _NEGLIGIBLE)  # the last column is anywhere
    for part in blocks(frames, classes):
        gain[part, :-1] = softmax_entropy(logits[part])[0][:, kept]
    capacity = frames * label_shares(labels, classes)[kept]
    flow = transport(1 - gain, np.append(capacity, frames))[:, :-1]
    return np.asarray(1 - (flow * gain[:, :-1]).sum(axis=1))


def _in_order(clean: Clean) -> Labels:
    return np.sort(np.concatenate([labels for _, labels in clean]))


@dataclass(frozen=True)
class ConfidenceOptimalTransport:
    """1 - the mean transport cost, 0 to 1: an accuracy without any fit.

    Lu et al., "Characterizing Out-of-Distribution Error via Optimal Transport", NeurIPS 2023,
    section 4.1. Never above the average confidence; lower, too, where predictions crowd on fewer
    classes than clean labels do. It wants windows with several frames a class: with fewer, each
    class has room for a part of a frame only, and the score lies far below any accuracy.
    """

    name: str = "cot"

    def reference(self, clean: Clean) -> dict[str, Any]:
        """Return the labels, in order."""
        return {"labels": _in_order(clean).tolist()}

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

    def reference(self, clean: Clean) -> dict[str, Any]:
        """Return the labels, in order, and -t.

        Costs depend on how many frames there are for a class, so each window has its own.
        """
        wrong = sum(int((record.deployed.label != labels).sum()) for record, labels in clean)
        known = _in_order(clean)
        savings = [-frame_costs(record.deployed.logits, known) for record, _ in clean]
        return {"labels": known.tolist(), "threshold": split(np.concatenate(savings), wrong)}

    def __call__(self, record: BurstRecord, reference: Reference) -> float:
        """Return the share of frames whose cost is at most t."""
        labels = np.asarray(reference["labels"], np.int64)
        savings = -frame_costs(record.deployed.logits, labels)
        return share_above(savings, reference["threshold"])
