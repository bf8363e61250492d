"""Several scores to accuracy: a plane that rises with each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewf.errors import EdgewfError
from edgewf.estimators.interval import interval

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """accuracy = intercept + sum_j coefficient_j x_j, no coefficient negative.

    Attributes:
        intercept: percent.
        coefficients: percent per unit of each score; 0 for one that does not help.
        low, high: of each score on the points it was fitted to.
        residual_std: points of accuracy; how far the points lie from a fit that did not see their
            kind of shift.
        points: number of points fitted.
        inverse: (X^T X)^-1 of the fit, X [points, 1 + scores]; rows and columns of scores that do
            not help are 0.
    """

    intercept: float
    coefficients: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    residual_std: float
    points: int
    inverse: Matrix

    @classmethod
    def fit(cls, x: ArrayLike, y: ArrayLike, groups: Sequence[str]) -> Linear:
        """Fit by least squares without negative coefficients.

        Args:
            x: scores [n, m].
            y: accuracy [n] in percent.
            groups: kind of shift of each point; the residuals are those of fits that leave the
                point's whole group out.

        Raises:
            EdgewfError: fewer than m + 3 points, or all of them alike.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        n, m = x.shape
        if n < m + 3 or not np.ptp(x, axis=0).any():
            raise EdgewfError(
                f"{n} calibration points with {len(np.unique(x, axis=0))} different values cannot "
                f"fix a plane: need at least {m + 3} points that are not all alike"
            )
        columns = np.column_stack([np.ones(n), x])
        solution = _least_squares(columns, y)
        residuals = columns @ solution - y
        spread = float((residuals**2).sum()) / (n - m - 1)
        kinds = np.asarray(groups)
        for kind in np.unique(kinds):
            out = kinds == kind
            if (~out).sum() >= m + 3:
                residuals[out] = columns[out] @ _least_squares(columns[~out], y[~out]) - y[out]
        used = np.concatenate([[True], solution[1:] > 0])
        inverse = np.zeros((m + 1, m + 1))
        inverse[np.ix_(used, used)] = np.linalg.pinv(columns[:, used].T @ columns[:, used])
        return cls(
            intercept=float(solution[0]),
            coefficients=tuple(solution[1:].tolist()),
            low=tuple(x.min(axis=0).tolist()),
            high=tuple(x.max(axis=0).tolist()),
            residual_std=math.sqrt(max(spread, float((residuals**2).mean()))),
            points=n,
            inverse=inverse,
        )

    def __call__(self, *x: float) -> float:
        """Return the accuracy in percent, within 0 and 100, for the m scores."""
        value = self.intercept + sum(c * v for c, v in zip(self.coefficients, x, strict=True))
        return min(max(value, 0.0), 100.0)

    def interval(self, *x: float, frames: int) -> tuple[float, float]:
        """Return the 90 % interval (low, high) in percent for an estimate from `frames` frames.

        The spread of the points grows with the leverage of x: the further a window lies from
        what the calibration saw, the less its plane is known there.
        """
        row = np.array([1.0, *x])
        spread = self.residual_std * math.sqrt(1 + float(row @ self.inverse @ row))
        return interval(self(*x), spread, self.points - len(self.coefficients) - 1, frames)

    def covers(self, *x: float) -> bool:
        """Tell whether each score lies in the range of the points."""
        return all(a <= v <= b for a, v, b in zip(self.low, x, self.high, strict=True))

    def formula(self, *names: str) -> str:
        """Return it as text, with the names of the scores."""
        terms = zip(self.coefficients, names, strict=True)
        return " ".join([f"{self.intercept:.4g}", *(f"{c:+.4g} {name}" for c, name in terms)])


def _least_squares(columns: Matrix, y: Matrix) -> Matrix:
    """Return the best [1 + m] with none but the first negative.

    The problem is convex, so the best is the free solution on some subset of the scores: of all
    subsets whose solution is allowed, the one with the least error.
    """
    m = columns.shape[1] - 1
    best = (math.inf, np.zeros(m + 1))
    for chosen in product((False, True), repeat=m):
        kept = [0, *compress(range(1, m + 1), chosen)]
        solution = np.zeros(m + 1)
        solution[kept] = np.linalg.lstsq(columns[:, kept], y, rcond=None)[0]
        error = float(((columns @ solution - y) ** 2).sum())
        if (solution[1:] >= 0).all() and error < best[0]:
            best = error, solution
    return best[1]
