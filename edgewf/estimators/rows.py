"""Probabilities of a window a few frames at a time, so that many classes need little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import Float32
from edgewf.kernels.reference import softmax_entropy

Float64 = NDArray[np.float64]

_ELEMENTS = 2**20  # of a block: 8 MiB of float64


def blocks(length: int, width: int) -> Iterator[slice]:
    """Cut [length, width] into slices of the first axis of about 8 MiB of float64."""
    size = max(1, _ELEMENTS // width)
    for start in range(0, length, size):
        yield slice(start, start + size)


def by_frame(logits: Float32, function: Callable[[Float64, Float64, Float64], Float64]) -> Float64:
    """Return float64 [N]: a function of each frame's prediction.

    Args:
        logits: [N, K], N at least 1.
        function: from probabilities [n, K], log-probabilities [n, K] and entropy [n] to [n].
    """
    parts = [function(*softmax_entropy(logits[part])) for part in blocks(*logits.shape)]
    return np.concatenate(parts)


def confidence(logits: Float32) -> Float64:
    """Return the largest probability of each frame, float64 [N]."""
    return by_frame(logits, lambda p, log_p, entropy: p.max(axis=1))


def negative_entropy(logits: Float32) -> Float64:
    """Return sum_k p_k ln p_k of each frame, float64 [N], in nats."""
    return by_frame(logits, lambda p, log_p, entropy: -entropy)


def log_sum_exp(logits: Float32) -> Float64:
    """Return ln sum_k e^(f_k) of each frame, float64 [N]."""

    def of(x: Float64) -> Float64:
        top: Float64 = x.max(axis=1)
        total: Float64 = np.exp(x - top[:, None]).sum(axis=1)
        return np.asarray(top + np.log(total))

    return np.concatenate([of(logits[part].astype(np.float64)) for part in blocks(*logits.shape)])
