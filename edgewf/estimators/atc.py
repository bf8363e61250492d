"""Average thresholded confidence (Garg et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewf.engines import BurstRecord, Float32
from edgewf.estimators.rows import Float64
from edgewf.estimators.score import Clean, Reference
from edgewf.estimators.threshold import share_above, split


@dataclass(frozen=True)
class AverageThresholdedConfidence:
    """Share of frames whose confidence s is at least t, 0 to 1: an accuracy without any fit.

    On clean images t is such that as many frames lie below it as are misclassified,
    E[s(x) < t] = E[argmax f(x) != y] (Garg et al., "Leveraging Unlabeled Data to Predict
    Out-of-Distribution Performance", ICLR 2022, section 4). There s is the largest probability or
    the negative entropy, of logits that temperature scaling calibrated.

    Attributes:
        name: see `Score`.
        confidence: s, from logits [N, K] to float64 [N].
    """

    name: str
    confidence: Callable[[Float32], Float64]

    def reference(self, clean: Clean) -> dict[str, Any]:
        """Return t."""
        wrong = sum(int((record.deployed.label != labels).sum()) for record, labels in clean)
        found = np.concatenate([self.confidence(record.deployed.logits) for record, _ in clean])
        return {"threshold": split(found, wrong)}

    def __call__(self, record: BurstRecord, reference: Reference) -> float:
        """Return the share of frames at or above t."""
        return share_above(self.confidence(record.deployed.logits), reference["threshold"])
