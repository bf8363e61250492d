"""The threshold that splits clean frames as their labels do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def split(values: NDArray[np.float64], wrong: int) -> float:
    """Return the threshold below which `wrong` of the values lie, halfway to the next.

    Args:
        values: float64 [N], finite, N at least 1.
        wrong: 0 to N.
    """
    ordered = np.sort(values)
    if wrong == 0:
        return float(ordered[0])
    if wrong == len(ordered):
        return float(np.nextafter(ordered[-1], np.inf))
    return float((ordered[wrong - 1] + ordered[wrong]) / 2)


def share_above(values: NDArray[np.float64], threshold: float) -> float:
    """Return the share of the values that are not below the threshold, 0 to 1."""
    return float((values >= threshold).mean())
