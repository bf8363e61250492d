"""Meta-distribution energy (Peng et al., ICLR 2024)."""

from __future__ import annotations

import numpy as np

from edgewf.engines import Float32
from edgewf.estimators.rows import log_sum_exp


def mde(logits: Float32) -> float:
    """Return -mean_i ln softmax_i(Z) - ln N, Z_i = -ln sum_k e^(f_ik) the energies; at least 0.

    Peng et al., "Energy-based Automated Model Evaluation", ICLR 2024, section 3: the softmax is
    over the frames of the window. With temperature 1, as there. ln N is taken off so that windows
    of different sizes compare; what is left is the divergence of the energies' softmax from the
    uniform distribution, 0 if all energies are equal.

    Args:
        logits: [N, K], N at least 1.
    """
    energy = -log_sum_exp(logits)
    top = energy.max()
    partition = top + np.log(np.exp(energy - top).sum())
    return float(partition - energy.mean() - np.log(len(energy)))
