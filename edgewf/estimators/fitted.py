"""From what a burst saw of a window to the accuracy of the deployed network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewf.errors import EdgewfError
from edgewf.estimators import QUADRATICS, STACKS, TEMPERED, UNKNOWN, known, scores_of
from edgewf.estimators.quadratic import Quadratic
from edgewf.estimators.stack import Stack

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
    curve: Stack | Quadratic

    def __str__(self) -> str:
        """Return the formula."""
        return self.curve.formula(*self.scores)

    def record(self) -> dict[str, Any]:
        """Return what `edgewf inspect --json` prints."""
        return {
            "name": self.name,
            "scores": list(self.scores),
            "formula": str(self),
            "low": np.atleast_1d(self.curve.low).tolist(),
            "high": np.atleast_1d(self.curve.high).tolist(),
            "residual_std": self.curve.residual_std,
        }

    def __call__(self, scores: Scores) -> float:
        """Return the accuracy in percent."""
        return self.curve(*self._chosen(scores))

    def interval(
        self, scores: Scores, frames: int, effective: float | None = None
    ) -> tuple[float, float]:
        """Return the 90 % interval (low, high) in percent, see `estimators.interval.interval`."""
        return self.curve.interval(*self._chosen(scores), frames=frames, effective=effective)

    def covers(self, scores: Scores) -> bool:
        """Tell whether the calibration saw scores like these."""
        return self.curve.covers(*self._chosen(scores))

    def _chosen(self, scores: Scores) -> list[float]:
        return [scores[name] for name in self.scores]


def fit(
    name: str, scores: Sequence[Scores], accuracy: Sequence[float], shifts: Sequence[str]
) -> Fitted:
    """Fit an estimator.

    Args:
        name: see `edgewf.estimators.known`.
        scores: of each calibration window.
        accuracy: of each, in percent.
        shifts: the kind of shift of each.

    Raises:
        EdgewfError: an unknown name, a score that points lack, or points that fix no curve.
    """
    if not known(name):
        raise EdgewfError(UNKNOWN.format(name))
    chosen = scores_of(name)
    missing = [score for score in chosen if any(score not in point for point in scores)]
    if missing:
        raise EdgewfError(
            f"the estimator {name} looks at {', '.join(missing)}, which the calibration lacks: "
            "export the model and run `edgewf calibrate` with this version, or choose another"
        )
    x = [[point[score] for score in chosen] for point in scores]
    if name in STACKS:
        return Fitted(name, chosen, Stack.fit(x, accuracy, shifts))
    rising = QUADRATICS[name.removesuffix(TEMPERED)]
    return Fitted(name, chosen, Quadratic.fit(np.ravel(x), accuracy, rising=rising))
