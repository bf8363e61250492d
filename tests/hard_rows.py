"""Rows of logits that break careless softmaxes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

INF, NAN = math.inf, math.nan

HARD_ROWS = {
    "equal": [2.0, 2.0, 2.0],
    "far apart": [1e4, 0.0, -1e4],
    "far below zero": [-1e4, -1e4, -2e4],
    "largest float32": [3.4e38, -3.4e38, 0.0],
    "nearly certain": [0.0, 30.0, -5.0],
    "tie in the maximum": [1.0, 5.0, 5.0],
    "-inf": [1.0, -INF, 1.0],
    "all but one -inf": [-INF, 5.0, -INF],
    "+inf": [0.0, INF, 0.0],
    "two +inf": [0.0, INF, INF],
    "NaN": [NAN, 1.0, 3.0],
    "NaN and +inf": [NAN, 0.0, INF],
    "NaN and -inf": [NAN, -INF, -INF],
    "all NaN": [NAN, NAN, NAN],
    "all -inf": [-INF, -INF, -INF],
}


def hard_rows(K: int) -> NDArray[np.float32]:
    """Return float32 [B, K], K >= 3: each hard row spread over threads, warps and chunks.

    Its three numbers go to the first, the middle and the last class; between them are -inf, the
    lowest of them, or the last one.
    """
    x = np.empty((3 * len(HARD_ROWS), K), np.float32)
    for i, row in enumerate(HARD_ROWS.values()):
        finite = np.array(row)[np.isfinite(row)]
        low = finite.min() if len(finite) else -INF
        for j, filler in enumerate((-INF, low, row[2])):
            x[3 * i + j] = filler
            x[3 * i + j, [0, K // 2, K - 1]] = row
    return x
