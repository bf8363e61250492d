"""How far estimates are off, summarised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgewf.calibration import Point
from edgewf.estimators.fitted import Fitted


def judge(
    estimator: Fitted,
    points: Sequence[Point],
    frames: int,
    truth: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return mean absolute error, bias, worst error with its cell, and how often intervals hold.

    Args:
        estimator: fitted to other points.
        points: to judge it on.
        frames: in each window.
        truth: accuracies of the streams that the windows were drawn from, for the interval; None
            takes the windows' own.
    """
    estimates = np.array([estimator(p.scores) for p in points])
    errors = estimates - [p.accuracy for p in points]
    worst = int(np.abs(errors).argmax())
    intervals = [estimator.interval(p.scores, frames) for p in points]
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


def _share(intervals: Sequence[tuple[float, float]], truth: Sequence[float]) -> float:
    held = [low <= y <= high for (low, high), y in zip(intervals, truth, strict=True)]
    return float(100 * np.mean(held))
