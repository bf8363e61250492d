"""Estimators of the deployed network's accuracy: their names and the scores they look at.

Every estimator is fitted to the same calibration points, each a window of known accuracy with the
scores that `edgewf.burst.Burst.scores` names. Nothing is imported here, for `edgewf --help`.
"""

from __future__ import annotations

DEFAULT = "combined"

# Scores that go into a plane; accuracy rises with each of them.
PLANES: dict[str, tuple[str, ...]] = {
    "combined": ("soft_agreement", "certainty"),
}
# The score that goes into a quadratic, and whether accuracy rises with it.
QUADRATICS: dict[str, tuple[str, bool]] = {
    "weighted-flips": ("weighted_flips", False),
    "flips": ("flips", False),
    "weighted-flips-batch": ("weighted_flips_batch", False),
    "flips-batch": ("flips_batch", False),
    "weighted-zero-step": ("weighted_zero_step", False),
    "zero-step": ("zero_step", False),
    "soft-agreement": ("soft_agreement", True),
    "certainty": ("certainty", True),
    "nuclear-norm": ("nuclear_norm", True),
    "average-confidence": ("average_confidence", True),
}
NAMES = (*PLANES, *QUADRATICS)
