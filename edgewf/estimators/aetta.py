"""Agreement of dropout inferences (AETTA, Lee et al., CVPR 2024)."""

from __future__ import annotations

import math

import numpy as np

from edgewf.engines import BurstRecord
from edgewf.estimators.rows import blocks
from edgewf.kernels.reference import labels, softmax_entropy

_ALPHA = 3


def aetta(record: BurstRecord) -> float:
    """Return 1 - err, an accuracy of the network under batch statistics, from 1 / K to 1.

    Lee et al., "AETTA: Label-Free Accuracy Estimation for Test-Time Adaptation", CVPR 2024, and
    `aetta` in the authors' code. PDD, prediction disagreement with dropouts, is the share of
    dropout inferences whose label differs from the network's own. A network that crowds on few
    classes agrees with itself and is wrong, so with E the entropy of the mean of all their
    probabilities

        err = PDD (E / ln K)^-3,  at most 1 - 1 / K

    There it is smoothed over batches of 64; here a window is one batch.

    Args:
        record: with its dropout inferences [M, N, K], N at least 1.
    """
    assert record.dropout is not None, "the burst was not asked for dropout inferences"
    inferences, frames, classes = record.dropout.shape
    differing, total = 0, np.zeros(classes)
    for logits in record.dropout:
        differing += int((labels(logits) != record.before.label).sum())
        for part in blocks(frames, classes):
            total += softmax_entropy(logits[part])[0].sum(axis=0)
    differ, mean = differing / (inferences * frames), total / (inferences * frames)
    present = mean[mean > 0]
    entropy = float(-(present * np.log(present)).sum())
    spread = (entropy / math.log(classes)) ** _ALPHA
    worst = 1 - 1 / classes
    # The entropy of a network that says one class alone is 0.
    return 1 - (worst if differ > worst * spread else differ / spread if differ else 0.0)
