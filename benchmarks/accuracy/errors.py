"""How far estimates are off, summarised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewf.calibration import Point
from edgewf.estimators.fitted import Fitted
from edgewf.flags import UsualClasses


def judge(
    estimator: Fitted,
    points: Sequence[Point],
    frames: int,
    truth: Sequence[float] | None = None,
    usual: UsualClasses | None = None,
) -> dict[str, Any]:
    """Return mean absolute error, bias, worst error with its cell, and how often intervals hold.

    Args:
        estimator: fitted to other points.
        points: to judge it on.
        frames: in each window.
        truth: accuracies of the streams that the windows were drawn from, for the interval; None
            takes the windows' own.
        usual: of the calibration, to widen intervals where few classes are predicted, as
            estimates do.
    """
    estimates = np.array([estimator(p.scores) for p in points])
    errors = estimates - [p.accuracy for p in points]
    worst = int(np.abs(errors).argmax())
    intervals = [interval(estimator, p, frames, usual) for p in points]
    own = [p.accuracy for p in points]
    return {
        "mae": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "worst": float(errors[worst]),
        "worst_cell": f"{points[worst].shift} {points[worst].severity}",
        "holds": _share(intervals, own),
        "holds_stream": None if truth is None else _share(intervals, truth),
        "half_width": float(np.mean([high - low for low, high in intervals]) / 2),
    }


def interval(
    estimator: Fitted, point: Point, frames: int, usual: UsualClasses | None
) -> tuple[float, float]:
    """Return the 90 % interval that an estimate has on a window."""
    scores = point.scores
    few = None if usual is None else usual.few(estimator(scores), scores["dispersion"])
    return estimator.interval(scores, frames, None if few is None else min(frames, few))


def _share(intervals: Sequence[tuple[float, float]], truth: Sequence[float]) -> float:
    held = [low <= y <= high for (low, high), y in zip(intervals, truth, strict=True)]
    return float(100 * np.mean(held))
