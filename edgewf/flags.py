"""Reasons to doubt an estimate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import BurstRecord

REASONS = {
    "no_calibration": "the bundle has no calibration: run `edgewf calibrate` on labelled images",
    "extrapolating": "the scores lie outside what the calibration saw",
    "nothing_selected": "the objective let almost no frame adapt, so nothing could flip",
    "uniform_window": "predictions crowd on fewer classes than on calibration windows with such an "
    "estimate: the camera sees few, which misleads batch statistics",
    "duplicated_frames": "many frames are near-duplicates of others",
    "small_window": "the window is so small that chance alone moves its accuracy by many points",
    "collapse": "the burst drove the predictions to few classes: use fewer steps or a smaller "
    "learning rate, and calibrate with them",
}
"""Each flag, and what it says to the owner."""

# Below these a burst saw too little to be believed.
_LEAST_SELECTED = 0.05
_LEAST_CLASSES = 0.8
_LEAST_FRAMES = 100
_MOST_DUPLICATES = 0.1
_MOST_COLLAPSE = 0.5


@dataclass(frozen=True)
class UsualClasses:
    """How many classes the predictions on calibration windows share, by what is estimated there.

    A network that fails predicts few classes, and so does one whose camera sees few. Only the
    first shows in the estimate, too.

    Attributes:
        windows: (estimate in percent, effective number of classes), one or more.
        total: number of classes that the network knows.
    """

    windows: tuple[tuple[float, float], ...]
    total: int

    def few(self, estimate: float, dispersion: float) -> float | None:
        """Return how many classes the predictions share, if that is unusually few, else None.

        It is if they are clearly fewer than on every calibration window with an estimate as high,
        or than on the one with the highest.

        Args:
            estimate: percent.
            dispersion: the score, see `edgewf.estimators.scores.dispersion`.
        """
        classes = float(self.total**dispersion)
        level = min(estimate, max(e for e, _ in self.windows))
        usual = min(c for e, c in self.windows if e >= level)
        return classes if classes < _LEAST_CLASSES * usual else None


def window_flags(
    record: BurstRecord,
    selected_share: float,
    duplicated: float,
    crowded: bool,
    stopped: bool = False,
) -> tuple[str, ...]:
    """Return the flags that need no estimator, in the order of `REASONS`.

    Args:
        record: what a burst on N frames read back.
        selected_share: mean share of its batches that adapted, 0 to 1.
        duplicated: share of frames that are near-duplicates of others, 0 to 1.
        crowded: see `UsualClasses`; without a calibration only a window of one class is flagged.
        stopped: the burst ended early because of a collapse.
    """
    deployed = effective_classes(record.deployed.label)
    found = {
        "nothing_selected": bool(record.steps) and selected_share < _LEAST_SELECTED,
        "uniform_window": crowded or deployed == 1,
        "duplicated_frames": duplicated > _MOST_DUPLICATES,
        "small_window": len(record.deployed.label) < _LEAST_FRAMES,
        "collapse": stopped or collapsed(record.before.label, record.after.label),
    }
    return tuple(name for name, holds in found.items() if holds)


def collapsed(first: NDArray[np.int64], now: NDArray[np.int64]) -> bool:
    """Tell whether the labels of the same frames now share far fewer classes than at first.

    Entropy says less: it goes to 0 in every long burst, also in one that keeps all classes.
    """
    return effective_classes(now) < _MOST_COLLAPSE * effective_classes(first)


def effective_classes(labels: NDArray[np.int64]) -> float:
    """Return exp(entropy) of the label frequencies: how many classes share the window evenly."""
    _, counts = np.unique(labels, return_counts=True)
    p = counts / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
