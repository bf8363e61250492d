"""What a window's predictions say of their own accuracy: numbers between 0 and 1."""

from __future__ import annotations

import numpy as np

from edgewf.engines import Float32
from edgewf.kernels.reference import softmax_entropy


def soft_agreement(deployed: Float32, adapted: Float32) -> float:
    """Return how often labels drawn from two networks' probabilities would agree, 0 to 1.

    mean_i sum_k p_ik q_ik, with p the deployed and q the adapted network's probabilities of N
    frames: one minus the share of flips that is to be expected if every label is drawn from its
    probabilities, so that a wavering prediction counts as half a flip whichever side it falls on.
    A frame on which the adapted network is not finite agrees with nothing.

    Args:
        deployed, adapted: logits [N, K] of the same frames, N at least 1.
    """
    p, _, _ = softmax_entropy(deployed)
    q, _, _ = softmax_entropy(adapted)
    return float(np.nan_to_num((p * q).sum(axis=1)).mean())


def certainty(logits: Float32) -> float:
    """Return 1 - H / ln K, H the mean entropy of the predictions, 0 to 1.

    Each frame speaks for itself, so it does not matter how many classes a camera sees.

    Args:
        logits: [N, K], N at least 1.
    """
    _, _, entropy = softmax_entropy(logits)
    return float(1 - entropy.mean() / np.log(logits.shape[1]))


def nuclear_norm(logits: Float32) -> float:
    """Return the nuclear norm of the probabilities [N, K] over its upper bound, 0 to 1.

    ||P||_* / sqrt(min(N, K) N): high where predictions are sure and spread over many classes (Deng
    et al., "Confidence and Dispersity Speak", ICML 2023, section 3). So low, too, where a camera
    sees few classes.

    Args:
        logits: [N, K], N at least 1.
    """
    p, _, _ = softmax_entropy(logits)
    frames, classes = p.shape
    # The squared singular values are the eigenvalues of the smaller Gram matrix.
    gram = p @ p.T if frames <= classes else p.T @ p
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    return float(singular.sum() / np.sqrt(min(frames, classes) * frames))
