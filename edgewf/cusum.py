"""Has a number left its own past? A reference of its first values, and Page's cumulative sum."""

from __future__ import annotations

import math


class Reference:
    """Mean and spread of the first values of a series (Welford's method).

    Args:
        size: values that make the reference, at least 2; later ones are not taken.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.count = 0
        self.mean = self._squares = 0.0

    @property
    def full(self) -> bool:
        """Whether there are enough values."""
        return self.count >= self._size

    @property
    def spread(self) -> float:
        """Standard deviation with n - 1; 0 of fewer than two values."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else 0.0

    def add(self, value: float) -> None:
        """Take a value."""
        self.count += 1
        deviation = value - self.mean
        self.mean += deviation / self.count
        self._squares += deviation * (value - self.mean)


class Cusum:
    """One-sided cumulative sum (Page 1954): grows while values lie above the tolerance.

    Args:
        tolerance: Page's reference value, half of the shift that is looked for, in the unit of the
            values.

    Attributes:
        total: the sum, 0 at least.
        age: values since the sum last was 0. Where a change is found, it probably began so long
            ago (Page's estimate of the change point).
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self.total = 0.0
        self.age = 0

    def update(self, value: float, most: float = math.inf) -> float:
        """Take a value and return the sum, which is cut off at `most`."""
        self.total = min(most, max(0.0, self.total + value - self._tolerance))
        self.age = self.age + 1 if self.total > 0.0 else 0
        return self.total
