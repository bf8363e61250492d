"""Estimators of the deployed network's accuracy: their names and the scores they look at.

Every estimator is fitted to the same calibration points, each a window of known accuracy with all
scores of `edgewf.estimators.table`. Nothing is imported here, for `edgewf --help`.
"""

from __future__ import annotations

DEFAULT = "combined"
WITHOUT_STEPS = "combined-zero-step"
"""The default with what is known before the first step."""
TEMPERED = "-tempered"
"""Behind the name of a quadratic: of logits at the temperature that suits clean images."""

# Scores that are weighed against each other; accuracy rises with each of them.
STACKS: dict[str, tuple[str, ...]] = {
    "combined": ("soft_agreement_tempered", "certainty", "atc_confidence"),
    "combined-zero-step": ("soft_agreement_zero_step_tempered", "certainty", "atc_confidence"),
}
# The name of an estimator that is a quadratic of one score; whether accuracy rises with it. The
# score has the same name, spelt with underscores.
QUADRATICS: dict[str, bool] = {
    "weighted-flips": False,
    "flips": False,
    "weighted-flips-batch": False,
    "flips-batch": False,
    "weighted-zero-step": False,
    "zero-step": False,
    "soft-agreement": True,
    "soft-agreement-zero-step": True,
    "average-confidence": True,
    "difference-of-confidences": True,
    "atc-confidence": True,
    "atc-entropy": True,
    "cot": True,
    "cott": True,
    "certainty": True,
    "dispersion": True,
    "nuclear-norm": True,
    "mano": True,
    "mde": True,
    "aetta": True,
}
NAMES = (*STACKS, *QUADRATICS)
UNKNOWN = (
    f"unknown estimator {{!r}}: use {', '.join(STACKS)}, or one of {', '.join(QUADRATICS)}, which "
    f"may have {TEMPERED} behind them"
)
"""What to say of a name that none has."""


def known(name: str) -> bool:
    """Tell whether an estimator has this name."""
    return name in STACKS or name.removesuffix(TEMPERED) in QUADRATICS


def scores_of(name: str) -> tuple[str, ...]:
    """Return the keys of the scores that an estimator of this name looks at."""
    return STACKS.get(name, (name.replace("-", "_"),))
