"""Matrix norm of normalised logits (Xie et al., NeurIPS 2024)."""

from __future__ import annotations

import numpy as np

from edgewf.engines import Float32
from edgewf.estimators.rows import Float64, blocks, by_frame

_ORDER = 4  # p
_CONFIDENT = 5.0  # eta


def mano(logits: Float32) -> float:
    """Return (sum_ik Q_ik^p / (N K))^(1/p), p = 4: between 1 / K and K^(-1/p).

    Xie et al., "MaNo: Exploiting Matrix Norm for Unsupervised Accuracy Estimation Under
    Distribution Shifts", NeurIPS 2024, equations 2, 5 and 6. Q are probabilities by their rule
    softrun: softmax where the window's mean -ln p_ik over frames and classes exceeds eta = 5;
    else (the network is unsure, and the exponential would blow its errors up) v - min_k v over
    its sum, v = 1 + q + q^2 / 2 the exponential's first terms. So the score jumps where windows
    pass eta, and in the second case it depends on the zero of a frame's logits.

    Args:
        logits: [N, K], N at least 1.
    """
    frames, classes = logits.shape
    surprise = by_frame(logits, lambda p, log_p, entropy: -log_p.mean(axis=1))
    if surprise.mean() > _CONFIDENT:
        powers = by_frame(logits, lambda p, log_p, entropy: (p**_ORDER).sum(axis=1))
    else:
        parts = [_truncated(logits[part].astype(np.float64)) for part in blocks(frames, classes)]
        powers = np.concatenate([(q**_ORDER).sum(axis=1) for q in parts])
    return float((powers.mean() / classes) ** (1 / _ORDER))


def _truncated(logits: Float64) -> Float64:
    v = 1 + logits + logits**2 / 2
    v -= v.min(axis=1, keepdims=True)
    total = v.sum(axis=1, keepdims=True)
    # A frame whose logits are all alike is as unsure as can be.
    return np.where(total > 0, v / np.where(total > 0, total, 1), 1 / logits.shape[1])
