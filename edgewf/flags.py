"""Reasons to doubt an estimate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import BurstRecord

REASONS = {
    "no_calibration": "the bundle has no calibration: run `edgewf calibrate` on labelled images",
    "extrapolating": "the scores lie outside what the calibration saw",
    "nothing_selected": "the objective let almost no frame adapt, so nothing could flip",
    "uniform_window": "predictions crowd on few classes: either the camera sees few, and the "
    "estimate is too low, or the model fails",
    "duplicated_frames": "many frames are near-duplicates of others",
    "small_window": "the window is so small that chance alone moves its accuracy by many points",
    "collapse": "the burst drove the predictions to few classes: use fewer steps or a smaller "
    "learning rate, and calibrate with them",
}
"""Each flag, and what it says to the owner."""

# Below these a burst saw too little to be believed.
_LEAST_SELECTED = 0.05
_LEAST_SPREAD = 0.4
_LEAST_FRAMES = 100
_MOST_DUPLICATES = 0.1
_MOST_COLLAPSE = 0.5


def window_flags(
    record: BurstRecord, selected_share: float, duplicated: float, usual_spread: float | None
) -> tuple[str, ...]:
    """Return the flags that need no estimator, in the order of `REASONS`.

    Args:
        record: what a burst on N frames read back.
        selected_share: mean share of its batches that adapted, 0 to 1.
        duplicated: share of frames that are near-duplicates of others, 0 to 1.
        usual_spread: how many classes share predictions on clean calibration windows evenly;
            None without a calibration, which leaves only a window of one class to be flagged.
    """
    spread = effective_classes(record.deployed.label)
    before, after = (effective_classes(x.label) for x in (record.before, record.after))
    least = 1.0 if usual_spread is None else max(1.0, _LEAST_SPREAD * usual_spread)
    found = {
        "nothing_selected": bool(record.steps) and selected_share < _LEAST_SELECTED,
        "uniform_window": spread <= least,
        "duplicated_frames": duplicated > _MOST_DUPLICATES,
        "small_window": len(record.deployed.label) < _LEAST_FRAMES,
        "collapse": after < _MOST_COLLAPSE * before,
    }
    return tuple(name for name, holds in found.items() if holds)


def effective_classes(labels: NDArray[np.int64]) -> float:
    """Return exp(entropy) of the label frequencies: how many classes share the window evenly."""
    _, counts = np.unique(labels, return_counts=True)
    p = counts / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
