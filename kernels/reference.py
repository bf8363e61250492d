"""NumPy meaning of the one kernel between forward and backward, and of the update after it.

Entropy minimisation with the sample selection of EATA (Niu et al., ICML 2022) as used by RDumb
(Press et al., NeurIPS 2023); without margins it is Tent (Wang et al., ICLR 2021):

    H_i = -sum_k p_ik log p_ik            p_i = softmax(logits_i)
    reliable_i      : H_i < entropy_margin
    non-redundant_i : |cos(p_i, m)| < redundancy_margin, m the running mean of selected p
    w_i = exp(entropy_margin - H_i)       (1 where the objective does not weight)
    loss = mean over selected i of w_i H_i, w_i held constant
    d loss / d logits_ik = -w_i p_ik (log p_ik + H_i) / n_selected

EATA adds a pull towards the deployed parameters, SAR (Niu et al., ICLR 2023) takes the gradient
where a step uphill leads (`ascent`); both come after the rows, in parameter space.

Everything is computed in float64: this file says what is right, not what is fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MEAN_DECAY = 0.9


@dataclass(frozen=True)
class Objective:
    """Which samples adapt and how much each counts.

    Attributes:
        entropy_margin: samples with an entropy of this many nats or more stay out; inf admits all.
        redundancy_margin: samples whose probabilities have at least this absolute cosine with
            the running mean stay out; inf admits all.
        weighted: weight each selected sample by exp(entropy_margin - H).
        fisher_weight: of EATA's regulariser, see `fisher_pull`; 0 leaves it out.
        sharpness: L2 length of SAR's step uphill, after which the gradient is taken a second
            time, on the samples that pass the entropy margin in both places; 0 takes it once.
        recovery: nats; the burst starts again from the deployed parameters whenever the running
            mean of the second loss is below; 0 never.
        reset_every: steps after which it starts again; 0 never.
    """

    entropy_margin: float = math.inf
    redundancy_margin: float = math.inf
    weighted: bool = False
    fisher_weight: float = 0.0
    sharpness: float = 0.0
    recovery: float = 0.0
    reset_every: int = 0


@dataclass(frozen=True)
class Rows:
    """Per-sample results of `em_objective` for a batch of B samples and K classes.

    Attributes:
        label: int64 [B], class of the largest logit, the lowest index where several tie.
        confidence: float64 [B], largest probability.
        entropy: float64 [B], nats; NaN for a row that has a NaN or an infinite maximum.
        reliable: bool [B], passes the entropy margin.
        selected: bool [B], passes both margins.
        probabilities: float64 [B, K].
        dlogits: float32 [B, K], gradient summed over samples, not yet divided by their number.
    """

    label: NDArray[np.int64]
    confidence: Float64
    entropy: Float64
    reliable: NDArray[np.bool_]
    selected: NDArray[np.bool_]
    probabilities: Float64
    dlogits: Float32


def softmax_entropy(logits: NDArray[Any]) -> tuple[Float64, Float64, Float64]:
    """Return probabilities [B, K], log-probabilities [B, K] and entropy [B] in float64.

    A logit of -inf has probability 0 and adds nothing to the entropy.
    """
    x = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        shifted = x - x.max(axis=1, keepdims=True)
        exp = np.exp(shifted)
        total = exp.sum(axis=1, keepdims=True)
        p = exp / total
        log_p = shifted - np.log(total)
        entropy = -np.where(p > 0, p * log_p, p).sum(axis=1)
    return p, log_p, entropy


def labels(logits: NDArray[Any]) -> NDArray[np.int64]:
    """Return int64 [B], the class of each row's largest logit; NaN never wins, ties go lowest."""
    x = np.asarray(logits)
    best: NDArray[np.int64] = np.where(np.isnan(x), -np.inf, x).argmax(axis=1)
    return best


def em_objective(
    logits: NDArray[Any],
    objective: Objective,
    mean_probabilities: Float64 | None,
    among: NDArray[np.bool_] | None = None,
) -> Rows:
    """Label, confidence, entropy, selection and gradient of each row of logits [B, K].

    Args:
        logits: any float type, [B, K].
        objective: margins and weighting.
        mean_probabilities: float64 [K], running mean of selected probabilities; None before
            anything was selected, and then no sample is redundant.
        among: bool [B], the only ones that may be reliable; None admits all.
    """
    p, log_p, entropy = softmax_entropy(logits)
    finite = np.isfinite(entropy)
    reliable = finite & (entropy < objective.entropy_margin)
    if among is not None:
        reliable &= among
    selected = reliable
    if mean_probabilities is not None and math.isfinite(objective.redundancy_margin):
        norms = np.linalg.norm(p, axis=1) * np.linalg.norm(mean_probabilities)
        # The floor is that of torch.nn.functional.cosine_similarity.
        cosine = p @ mean_probabilities / np.maximum(norms, 1e-8)
        selected = reliable & (np.abs(cosine) < objective.redundancy_margin)
    weight = np.where(selected, 1.0, 0.0)
    if objective.weighted:
        weight[selected] = np.exp(objective.entropy_margin - entropy[selected])
    gradient = np.zeros_like(p)
    kept = selected[:, None] & (p > 0)
    terms = -weight[:, None] * p * (np.where(kept, log_p, 0.0) + np.nan_to_num(entropy)[:, None])
    gradient[kept] = terms[kept]
    return Rows(
        label=labels(logits),
        confidence=p.max(axis=1),
        entropy=entropy,
        reliable=reliable,
        selected=selected,
        probabilities=p,
        dlogits=gradient.astype(np.float32),
    )


def em_reduce(rows: Rows, mean_probabilities: Float64 | None) -> tuple[int, Float64 | None]:
    """Return the number selected and the next running mean of selected probabilities [K]."""
    n_selected = int(rows.selected.sum())
    if n_selected == 0:
        return 0, mean_probabilities
    batch_mean = rows.probabilities[rows.selected].mean(axis=0)
    if mean_probabilities is None:
        return n_selected, batch_mean
    return n_selected, MEAN_DECAY * mean_probabilities + (1 - MEAN_DECAY) * batch_mean


def fisher_pull(affine: Float32, deployed: Float32, fisher: Float32, weight: float) -> Float32:
    """Return the gradient [P] of weight sum_i F_i (affine_i - deployed_i)^2, float32.

    Equation 8 of EATA: what the deployed network's predictions depend on, F, is to stay.
    """
    pull: Float32 = np.float32(2 * weight) * fisher * (affine - deployed)
    return pull


def ascent(affine_grad: Float32, length: float) -> Float32:
    """Return the step [P] of L2 norm `length` along the gradient, float32.

    Equation 4 of SAR; how the gradient is scaled makes no difference.
    """
    gradient = affine_grad.astype(np.float64)
    step: Float32 = (gradient * (length / (np.linalg.norm(gradient) + 1e-12))).astype(np.float32)
    return step


def sgd_update(
    affine: Float32,
    velocity: Float32,
    affine_grad: Float32,
    *,
    n_selected: int,
    learning_rate: float,
    momentum: float,
    loss_scale: float = 1.0,
    pull: Float32 | None = None,
) -> bool:
    """Momentum SGD in place on affine [P] and velocity [P]; return whether it moved.

    The gradient arrives summed over samples and times `loss_scale`; both are divided out here,
    and `pull` [P], which has neither, is added.
    Nothing changes, not even the velocity, if nothing was selected or a gradient is not finite.
    """
    if n_selected == 0 or not np.isfinite(affine_grad).all():
        return False
    velocity *= np.float32(momentum)
    velocity += affine_grad * np.float32(1.0 / (loss_scale * n_selected))
    if pull is not None:
        velocity += pull
    affine -= np.float32(learning_rate) * velocity
    return True
