"""The 90 % interval around an estimate, whatever made it."""

from __future__ import annotations

import math

_Z90 = 1.6448536269514722  # standard normal quantile at 95 %


def interval(estimate: float, spread: float, freedom: int, frames: int) -> tuple[float, float]:
    """Return (low, high) in percent, within 0 and 100.

    Two independent errors add: the spread of calibration windows around the estimate, and the
    binomial error of the window as a sample of what the camera sees. The quantile is Student's,
    to first order in 1 / degrees of freedom.

    Args:
        estimate: percent.
        spread: standard deviation in points.
        freedom: degrees of freedom that `spread` was estimated with, at least 1.
        frames: in the window.
    """
    p = estimate / 100
    variance = spread**2 + 100**2 * p * (1 - p) / frames
    half = _Z90 * (1 + (_Z90**2 + 1) / (4 * freedom)) * math.sqrt(variance)
    return max(0.0, estimate - half), min(100.0, estimate + half)
