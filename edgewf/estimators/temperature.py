"""Temperature scaling (Guo et al., ICML 2017), an option for every score."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgewf.engines import BurstRecord, Float32, Predictions
from edgewf.estimators.rows import blocks, confidence
from edgewf.estimators.score import Labels
from edgewf.kernels.reference import softmax_entropy

_LIMIT = 100.0  # temperatures lie between its inverse and this
_STEPS = 60


def fit_temperature(logits: Float32, labels: Labels) -> float:
    """Return the T > 0 at which softmax(logits / T) gives labels the least mean NLL.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. The NLL is
    convex in 1 / T, so Newton's method, kept inside the bracket that the sign of the slope
    leaves, finds the minimum; within 0.01 and 100 (labels that are all right want T = 0).

    Args:
        logits: [N, K], N at least 1.
        labels: int64 [N].
    """
    # No temperature makes a class of logit -inf likelier.
    possible = logits[np.arange(len(labels)), labels] > -np.inf
    logits, labels = logits[possible], labels[possible]
    low, high = 1 / _LIMIT, _LIMIT
    if len(labels) == 0 or _derivatives(logits, labels, low)[0] >= 0:
        return _LIMIT
    if _derivatives(logits, labels, high)[0] <= 0:
        return 1 / _LIMIT
    inverse = 1.0
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        previous, inverse = inverse, step if low < step < high else math.sqrt(low * high)
        if abs(inverse - previous) <= 1e-10 * inverse:
            break
    return 1 / inverse


def _derivatives(logits: Float32, labels: Labels, inverse: float) -> tuple[float, float]:
    """Return slope and curvature of the mean NLL in 1 / T."""
    slope = curvature = 0.0
    for part in blocks(*logits.shape):
        x = logits[part].astype(np.float64)
        p, _, _ = softmax_entropy(x * inverse)
        x = np.where(p > 0, x, 0)  # 0 times -inf is 0 here
        mean = (p * x).sum(axis=1)
        slope += float((mean - logits[part][np.arange(len(x)), labels[part]]).sum())
        curvature += float((p * (x - mean[:, None]) ** 2).sum())
    return slope / len(logits), curvature / len(logits)


def scaled(record: BurstRecord, temperature: float) -> BurstRecord:
    """Return the record with all logits divided by the temperature; labels stay."""

    def scale(predictions: Predictions) -> Predictions:
        logits = (predictions.logits / temperature).astype(np.float32)
        return replace(predictions, logits=logits, confidence=confidence(logits))

    return replace(
        record,
        deployed=scale(record.deployed),
        before=scale(record.before),
        after=scale(record.after),
        dropout=None
        if record.dropout is None
        else (record.dropout / temperature).astype(np.float32),
    )
