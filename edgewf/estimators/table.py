"""Every score of predictions, by its key among the scores of a window."""

from __future__ import annotations

from edgewf.estimators.atc import AverageThresholdedConfidence
from edgewf.estimators.cot import ConfidenceOptimalTransport, ThresholdedOptimalTransport
from edgewf.estimators.difference_of_confidences import DifferenceOfConfidences, average_confidence
from edgewf.estimators.mano import mano
from edgewf.estimators.mde import mde
from edgewf.estimators.rows import confidence, negative_entropy
from edgewf.estimators.score import OfLogits, Score
from edgewf.estimators.scores import certainty, dispersion, nuclear_norm

_ALL: tuple[Score, ...] = (
    OfLogits("average_confidence", average_confidence),
    DifferenceOfConfidences(),
    AverageThresholdedConfidence("atc_confidence", confidence),
    AverageThresholdedConfidence("atc_entropy", negative_entropy),
    ConfidenceOptimalTransport(),
    ThresholdedOptimalTransport(),
    OfLogits("certainty", certainty),
    OfLogits("dispersion", dispersion),
    OfLogits("nuclear_norm", nuclear_norm),
    OfLogits("mano", mano),
    OfLogits("mde", mde),
)
SCORES: dict[str, Score] = {score.name: score for score in _ALL}
