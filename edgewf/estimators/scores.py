"""What a window's predictions say of their own accuracy: numbers between 0 and 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import Float32
from edgewf.estimators.rows import blocks, log_sum_exp, negative_entropy
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
    return float(frame_agreement(deployed, adapted).mean())


def frame_agreement(deployed: Float32, adapted: Float32) -> NDArray[np.float64]:
    """Return each frame's share in `soft_agreement`, float64 [N]."""
    found = np.empty(len(deployed))
    for part in blocks(*deployed.shape):
        p, _, _ = softmax_entropy(deployed[part])
        q, _, _ = softmax_entropy(adapted[part])
        found[part] = np.nan_to_num((p * q).sum(axis=1))
    return found


def certainty(logits: Float32) -> float:
    """Return 1 - H / ln K, H the mean entropy of the predictions, 0 to 1.

    Each frame speaks for itself, so it does not matter how many classes a camera sees.

    Args:
        logits: [N, K], N at least 1.
    """
    return float(1 + negative_entropy(logits).mean() / np.log(logits.shape[1]))


def dispersion(logits: Float32) -> float:
    """Return H(mean p) / ln K, the entropy of the mean prediction, 0 to 1.

    High where predictions spread evenly over the classes; low where they crowd on few, as they
    may where a network fails, but also where a camera sees few.

    Args:
        logits: [N, K], N at least 1.
    """
    frames, classes = logits.shape
    total = np.zeros(classes)
    for part in blocks(frames, classes):
        total += softmax_entropy(logits[part])[0].sum(axis=0)
    mean = total[total > 0] / frames
    return float(-(mean * np.log(mean)).sum() / np.log(classes))


def nuclear_norm(logits: Float32) -> float:
    """Return the nuclear norm of the probabilities [N, K] over its upper bound, 0 to 1.

    ||P||_* / sqrt(min(N, K) N): high where predictions are sure and spread over many classes (Deng
    et al., "Confidence and Dispersity Speak", ICML 2023, section 3). So low, too, where a camera
    sees few classes.

    Args:
        logits: [N, K], N at least 1.
    """
    frames, classes = logits.shape
    # The squared singular values are the eigenvalues of the smaller Gram matrix.
    gram = np.zeros((min(frames, classes),) * 2)
    if frames <= classes:
        log_total = log_sum_exp(logits)[:, None]
        for part in blocks(classes, frames):
            p = np.exp(logits[:, part] - log_total)
            gram += p @ p.T
    else:
        for part in blocks(frames, classes):
            p, _, _ = softmax_entropy(logits[part])
            gram += p.T @ p
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    return float(singular.sum() / np.sqrt(min(frames, classes) * frames))
