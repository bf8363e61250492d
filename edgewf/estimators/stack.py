"""Several scores to accuracy: a mixture of lines, one a score, that the calibration weighs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewf.errors import EdgewfError
from edgewf.estimators.interval import chance, interval

Matrix = NDArray[np.float64]

_LEAST_POINTS = 4
_NOTHING = 1e-9


@dataclass(frozen=True)
class Stack:
    """accuracy = sum_j weight_j (intercept_j + slope_j x_j); weights and slopes are not negative.

    Each line is fitted by itself. The weights sum to one and are those with which the lines
    predict kinds of shift best that they were not fitted to (stacking: Wolpert, "Stacked
    generalization", Neural Networks 5, 1992; with such weights Breiman, "Stacked regressions",
    Machine Learning 24, 1996). So a score that fails on some kind of shift loses its weight, where
    a plane through all scores would lean on it wherever it happens to fit.

    Attributes:
        weights: one a score; 0 for one that does not help.
        intercepts, slopes: of the lines, percent and percent per unit of the score.
        low, high: of each score on the points.
        centre, spread: of each score on the points: mean, and root of the sum of squares around it.
        residual_std: points of accuracy; how far the points lie from what a mixture of lines that
            did not see their kind of shift says.
        chance: of the points, see `edgewf.estimators.interval`.
        points: number of points fitted.
    """

    weights: tuple[float, ...]
    intercepts: tuple[float, ...]
    slopes: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    residual_std: float
    chance: float
    points: int

    @classmethod
    def fit(cls, x: ArrayLike, y: ArrayLike, groups: Sequence[str]) -> Stack:
        """Fit lines, then weigh them.

        Args:
            x: scores [n, m].
            y: accuracy [n] in percent.
            groups: kind of shift of each point. A kind without which fewer than four points are
                left is predicted by lines that saw it.

        Raises:
            EdgewfError: fewer than four points, or all of them alike.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if len(x) < _LEAST_POINTS or not np.ptp(x, axis=0).any():
            raise EdgewfError(
                f"{len(x)} calibration points with {len(np.unique(x, axis=0))} different values "
                f"cannot fix a line: need at least {_LEAST_POINTS} points that are not all alike"
            )
        lines = _lines(x, y)
        unseen = lines[0] + lines[1] * x
        kinds = np.asarray(groups)
        for kind in np.unique(kinds):
            out = kinds == kind
            if (~out).sum() >= _LEAST_POINTS:
                intercepts, slopes = _lines(x[~out], y[~out])
                unseen[out] = intercepts + slopes * x[out]
        weights = _mixture(unseen, y)
        seen = (lines[0] + lines[1] * x) @ weights - y
        variances = (unseen @ weights - y) ** 2, seen**2 * len(y) / (len(y) - 2)
        around = x - x.mean(axis=0)
        return cls(
            weights=tuple(weights.tolist()),
            intercepts=tuple(lines[0].tolist()),
            slopes=tuple(lines[1].tolist()),
            low=tuple(x.min(axis=0).tolist()),
            high=tuple(x.max(axis=0).tolist()),
            centre=tuple(x.mean(axis=0).tolist()),
            spread=tuple(np.sqrt((around**2).sum(axis=0)).tolist()),
            residual_std=math.sqrt(max(v.mean() for v in variances)),
            chance=chance(y),
            points=len(y),
        )

    def __call__(self, *x: float) -> float:
        """Return the accuracy in percent, within 0 and 100, for the m scores."""
        lines = zip(self.weights, self.intercepts, self.slopes, x, strict=True)
        return min(max(sum(w * (a + b * v) for w, a, b, v in lines), 0.0), 100.0)

    def interval(
        self, *x: float, frames: int, effective: float | None = None
    ) -> tuple[float, float]:
        """Return the 90 % interval (low, high) in percent, see `edgewf.estimators.interval`.

        `frames` are in the window, and in each of those fitted. The spread of the points grows
        with the leverage of x: the further a window lies from what the calibration saw, the less
        its lines are known there.
        """
        spread = self.residual_std * math.sqrt(1 + self.leverage(*x))
        return interval(self(*x), spread, self.chance, self.points - 2, frames, effective)

    def leverage(self, *x: float) -> float:
        """Return that of each line at its score, 1/n + (x - mean)^2 / sum of squares, weighted."""
        found = 1 / self.points
        for weight, value, centre, spread in zip(
            self.weights, x, self.centre, self.spread, strict=True
        ):
            if weight > 0 and spread > 0:
                found += weight * ((value - centre) / spread) ** 2
        return found

    def covers(self, *x: float) -> bool:
        """Tell whether each score that counts lies in the range of the points."""
        ranges = zip(self.weights, self.low, x, self.high, strict=True)
        return all(a <= v <= b for weight, a, v, b in ranges if weight > 0)

    def formula(self, *names: str) -> str:
        """Return it as text, with the names of the scores."""
        constant = sum(w * a for w, a in zip(self.weights, self.intercepts, strict=True))
        factors = (w * b for w, b in zip(self.weights, self.slopes, strict=True))
        terms = (f"{c:+.4g} {name}" for c, name in zip(factors, names, strict=True))
        return " ".join([f"{constant:.4g}", *terms])


def _lines(x: Matrix, y: Matrix) -> tuple[Matrix, Matrix]:
    """Return intercepts [m] and slopes [m] of least-squares lines that do not fall."""
    centre = x.mean(axis=0)
    around = x - centre
    squares = (around**2).sum(axis=0)
    products = around.T @ (y - y.mean())
    slopes = np.divide(products, squares, out=np.zeros_like(squares), where=squares > 0)
    slopes = np.maximum(slopes, 0)
    return y.mean() - slopes * centre, slopes


def _mixture(predictions: Matrix, y: Matrix) -> Matrix:
    """Return weights [m], not negative and with the sum 1, of the mixture closest to y [n].

    The problem is convex, so the best is the solution without bounds on some subset of the
    columns: of all subsets whose solution is allowed, the one with the least error.
    """
    m = predictions.shape[1]
    best = (math.inf, np.zeros(m))
    for subset in chain.from_iterable(combinations(range(m), size) for size in range(1, m + 1)):
        first, *others = subset
        base = predictions[:, first]
        # The first has what the others leave of 1.
        shares = np.linalg.lstsq(predictions[:, others] - base[:, None], y - base, rcond=None)[0]
        weights = np.zeros(m)
        weights[[*others, first]] = [*shares, 1 - shares.sum()]
        weights[np.abs(weights) < _NOTHING] = 0  # rounding
        error = float(((predictions @ weights - y) ** 2).sum())
        # Of two that are as good the simpler one.
        if (weights >= 0).all() and error < best[0] * (1 - 1e-9):
            best = error, weights
    return best[1]
