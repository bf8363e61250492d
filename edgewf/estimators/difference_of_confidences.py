"""Average confidence, and how far it fell (Guillory et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewf.engines import BurstRecord, Float32
from edgewf.estimators.rows import confidence
from edgewf.estimators.score import Clean, Reference


def average_confidence(logits: Float32) -> float:
    """Return the mean largest probability of logits [N, K], in percent."""
    return float(100 * confidence(logits).mean())


@dataclass(frozen=True)
class DifferenceOfConfidences:
    """acc(clean) - (AC(clean) - AC(window)), AC the average confidence, as a share of 1.

    The difference of confidences (Guillory et al., "Predicting with Confidence on Unseen
    Distributions", ICCV 2021, section 3.2) taken from the accuracy on clean images. With one
    reference it is the average confidence moved by a constant, so a curve fitted to either gives
    the same estimates; unfitted it corrects a confidence that is wrong on clean images already.
    It may lie outside 0 to 1.
    """

    name: str = "difference_of_confidences"

    def reference(self, clean: Clean) -> dict[str, Any]:
        """Return accuracy and average confidence of clean images, 0 to 1 each."""
        right = [record.deployed.label == labels for record, labels in clean]
        found = [confidence(record.deployed.logits) for record, _ in clean]
        return {
            "accuracy": float(np.concatenate(right).mean()),
            "confidence": float(np.concatenate(found).mean()),
        }

    def __call__(self, record: BurstRecord, reference: Reference) -> float:
        """Return the accuracy that the fall in confidence suggests."""
        fall = reference["confidence"] - float(confidence(record.deployed.logits).mean())
        return float(reference["accuracy"] - fall)
