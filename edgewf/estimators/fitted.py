"""From what a burst saw of a window to the accuracy of the deployed network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgewf.errors import EdgewfError
from edgewf.estimators import NAMES, PLANES, QUADRATICS
from edgewf.estimators.linear import Linear
from edgewf.estimators.quadratic import Quadratic

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Fitted:
    """An estimator fitted to a calibration.

    Attributes:
        name: as `--estimator` spells it.
        scores: what it looks at.
        curve: from those scores to accuracy.
    """

    name: str
    scores: tuple[str, ...]
    curve: Linear | Quadratic

    def __str__(self) -> str:
        """Return the formula."""
        curve = self.curve
        if isinstance(curve, Linear):
            terms = zip(curve.coefficients, self.scores, strict=True)
            return " ".join([f"{curve.intercept:.4g}", *(f"{c:+.4g} {name}" for c, name in terms)])
        return f"{curve.a:.6g} x² {curve.b:+.6g} x {curve.c:+.6g}, x = {self.scores[0]}"

    def record(self) -> dict[str, Any]:
        """Return what `edgewf inspect --json` prints."""
        curve = self.curve
        ranges = (
            (list(curve.low), list(curve.high))
            if isinstance(curve, Linear)
            else ([curve.low], [curve.high])
        )
        return {
            "name": self.name,
            "scores": list(self.scores),
            "formula": str(self),
            "low": ranges[0],
            "high": ranges[1],
            "residual_std": curve.residual_std,
        }

    def __call__(self, scores: Scores) -> float:
        """Return the accuracy in percent."""
        x = [scores[name] for name in self.scores]
        return self.curve(x) if isinstance(self.curve, Linear) else self.curve(x[0])

    def interval(self, scores: Scores, frames: int) -> tuple[float, float]:
        """Return the 90 % interval (low, high) in percent for an estimate from `frames` frames."""
        x = [scores[name] for name in self.scores]
        if isinstance(self.curve, Linear):
            return self.curve.interval(x, frames)
        return self.curve.interval(x[0], frames)

    def covers(self, scores: Scores) -> bool:
        """Tell whether the calibration saw scores like these."""
        x = [scores[name] for name in self.scores]
        if isinstance(self.curve, Linear):
            return self.curve.covers(x)
        return self.curve.low <= x[0] <= self.curve.high


def fit(
    name: str, scores: Sequence[Scores], accuracy: Sequence[float], shifts: Sequence[str]
) -> Fitted:
    """Fit an estimator.

    Args:
        name: one of `NAMES`.
        scores: of each calibration window.
        accuracy: of each, in percent.
        shifts: the kind of shift of each.

    Raises:
        EdgewfError: an unknown name, or points that fix no curve.
    """
    if name in PLANES:
        chosen = PLANES[name]
        x = [[point[score] for score in chosen] for point in scores]
        return Fitted(name, chosen, Linear.fit(x, accuracy, shifts))
    if name not in QUADRATICS:
        raise EdgewfError(f"unknown estimator {name!r}: use one of {', '.join(NAMES)}")
    score, rising = QUADRATICS[name]
    curve = Quadratic.fit([point[score] for point in scores], accuracy, rising=rising)
    return Fitted(name, (score,), curve)
