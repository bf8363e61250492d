"""The 90 % interval around an estimate, whatever made it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

Z90 = 1.6448536269514722
"""The half width of a 90 % interval in standard deviations of a normal error."""


def chance(accuracies: ArrayLike) -> float:
    """Return the mean of 100^2 p (1 - p), percent^2: over frames, windows' sampling variance.

    Args:
        accuracies: of calibration windows, percent [n].
    """
    y = np.asarray(accuracies, np.float64)
    return float((y * (100 - y)).mean())


def interval(
    estimate: float,
    spread: float,
    chance: float,
    freedom: int,
    frames: int,
    effective: float | None = None,
) -> tuple[float, float]:
    """Return (low, high) in percent, within 0 and 100.

    Two independent errors add: that of the curve, and the binomial error of the window as a
    sample of what the camera sees. The spread of calibration windows around the curve holds both,
    for their accuracies were counted on as many frames, so their share of chance is taken out and
    that of this window put in. The quantile is Student's, to first order in 1 / degrees of freedom.

    For the binomial error as many hits and misses as z^2 are added to those of the window, half of
    each (Agresti and Coull, The American Statistician 52, 1998): few frames that are all right do
    not prove that every one is.

    Args:
        estimate: percent.
        spread: standard deviation of calibration windows around the curve, points.
        chance: see `chance`, of those windows.
        freedom: degrees of freedom that `spread` was estimated with, at least 1.
        frames: in the window, and in each of those of the calibration.
        effective: frames of equal weight that tell as much as the window's; None if all weigh
            the same.
    """
    curve = max(spread**2 - chance / frames, 0.0)
    n = frames if effective is None else effective
    mean = (n * estimate + Z90**2 * 50) / (n + Z90**2)
    variance = curve + mean * (100 - mean) / n
    half = Z90 * (1 + (Z90**2 + 1) / (4 * freedom)) * math.sqrt(variance)
    return max(0.0, estimate - half), min(100.0, estimate + half)
