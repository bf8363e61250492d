"""Whether estimates that carry a flag are indeed further off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.accuracy.bank import Seen
from benchmarks.accuracy.errors import interval
from edgewf.calibration import Point
from edgewf.estimators.fitted import Fitted
from edgewf.flags import UsualClasses, window_flags


@dataclass(frozen=True)
class Judged:
    """An estimate beside the truth: its flags, and its error in points."""

    flags: tuple[str, ...]
    error: float
    held: bool


def judged(
    seen: Sequence[Seen],
    points: Sequence[Point],
    estimator: Fitted,
    usual: UsualClasses,
    frames: int,
) -> list[Judged]:
    """Return each window's flags and error.

    Every sample adapts under the default objective, and no frame is a near-duplicate here, so
    the flags of those two are not looked for.
    """
    found = []
    for window, point in zip(seen, points, strict=True):
        estimate = estimator(point.scores)
        few = usual.few(estimate, point.scores["dispersion"])
        flags = window_flags(window.record, 1.0, 0.0, few is not None)
        if not estimator.covers(point.scores):
            flags = ("extrapolating", *flags)
        low, high = interval(estimator, point, frames, usual)
        held = low <= point.accuracy <= high
        found.append(Judged(flags, estimate - point.accuracy, held))
    return found


def summary(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return windows, mean absolute and worst error, and the interval's share, by flag."""
    names = dict.fromkeys(flag for x in found for flag in x.flags)
    groups = {
        "none": [x for x in found if not x.flags],
        "any": [x for x in found if x.flags],
        **{name: [x for x in found if name in x.flags] for name in names},
    }
    return [
        {
            "flag": name,
            "windows": len(group),
            "mae": float(np.mean([abs(x.error) for x in group])),
            "worst": max((x.error for x in group), key=abs),
            "holds": float(100 * np.mean([x.held for x in group])),
        }
        for name, group in groups.items()
        if group
    ]


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return it as Markdown."""
    return [
        "| flags | windows | MAE | worst error | 90 % interval holds |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {x['flag']} | {x['windows']} | {x['mae']:.2f} | {x['worst']:+.1f} "
            f"| {x['holds']:.0f} % |"
            for x in rows
        ),
    ]
