"""One score to accuracy: the quadratic of Press et al., ICML 2024, section 5.1, held monotone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgewf.errors import EdgewfError
from edgewf.estimators.interval import chance, interval


@dataclass(frozen=True)
class Quadratic:
    """f(x) = a x^2 + b x + c on [low, high], continued by its tangents outside.

    Attributes:
        a, b, c: coefficients, accuracy in percent.
        low, high: range of x that f was fitted on.
        residual_std: percent; spread of the fitted points around f, corrected for the three
            coefficients.
        chance: of the points, see `edgewf.estimators.interval`.
        points: number of points fitted.
    """

    a: float
    b: float
    c: float
    low: float
    high: float
    residual_std: float
    chance: float
    points: int

    @classmethod
    def fit(cls, x: ArrayLike, y: ArrayLike, *, rising: bool = False) -> Quadratic:
        """Fit by least squares under the constraint that f falls (or rises) on the whole range.

        The constraint is f' <= 0 at both ends, two linear inequalities on a convex problem: the
        free minimum if it satisfies them, else the best of the fits with f' = 0 at one end.

        Raises:
            EdgewfError: fewer than 4 points, or all of them alike.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if len(x) < 4 or np.ptp(x) == 0:
            raise EdgewfError(
                f"{len(x)} calibration points with {len(np.unique(x))} different values cannot "
                "fix a curve: need at least 4 points that are not all alike"
            )
        sign = 1.0 if rising else -1.0
        low, high = float(x.min()), float(x.max())

        def solve(columns: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.linalg.lstsq(columns, y, rcond=None)[0], np.float64)

        a, b, c = solve(np.stack([x**2, x, np.ones_like(x)], axis=1))
        candidates = [(a, b, c)]
        for end in (low, high):  # a (x - end)^2 + c is flat at `end`
            a, c = solve(np.stack([(x - end) ** 2, np.ones_like(x)], axis=1))
            candidates.append((a, -2 * a * end, a * end**2 + c))
        candidates.append((0.0, 0.0, float(y.mean())))
        tolerance = 1e-9 * (np.ptp(y) + 1) / (high - low)
        feasible = [
            (float(((a * x**2 + b * x + c - y) ** 2).sum()), (float(a), float(b), float(c)))
            for a, b, c in candidates
            if all(sign * (2 * a * end + b) >= -tolerance for end in (low, high))
        ]
        squares, (a, b, c) = min(feasible)
        spread = math.sqrt(squares / (len(x) - 3))
        return cls(a, b, c, low, high, spread, chance(y), len(x))

    def __call__(self, x: float) -> float:
        """Return f(x) in percent, within 0 and 100."""
        inside = min(max(x, self.low), self.high)
        value = (self.a * inside + self.b) * inside + self.c
        value += (2 * self.a * inside + self.b) * (x - inside)
        return min(max(value, 0.0), 100.0)

    def interval(
        self, x: float, *, frames: int, effective: float | None = None
    ) -> tuple[float, float]:
        """Return the 90 % interval (low, high) in percent, see `edgewf.estimators.interval`.

        Args:
            x: the score.
            frames: in the window, and in each of those fitted.
        """
        freedom = self.points - 3
        return interval(self(x), self.residual_std, self.chance, freedom, frames, effective)

    def covers(self, x: float) -> bool:
        """Tell whether x lies in the range of the points."""
        return self.low <= x <= self.high

    def formula(self, name: str) -> str:
        """Return it as text, with the name of x."""
        return f"{self.a:.6g} x² {self.b:+.6g} x {self.c:+.6g}, x = {name}"
