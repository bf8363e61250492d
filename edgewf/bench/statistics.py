"""What repeated measurements of one duration say, and when there are enough of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STABLE = 0.02
"""Half the width of the median's 95 % interval, as a share of the median, that ends measuring."""

SPREAD = 0.10
"""Interquartile range over the median above which a measurement is called noisy."""

_Z = 1.959964  # of a 95 % interval
# Student's t for 1 degree of freedom on; with more than 20 the difference to the last is small.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True)
class Summary:
    """Of N positive samples, in their unit.

    Attributes:
        samples: N.
        p50, p90, p99: quantiles; None where fewer than 10 (p90) or 100 (p99) samples would make
            them one sample's.
        mean: of all.
        mean_interval: its 95 % interval, from the normal distribution; None for one sample.
        median_interval: the median's, free of any distribution; None for fewer than 6 samples,
            whose extremes do not span it.
        spread: interquartile range over the median.
    """

    samples: int
    p50: float
    p90: float | None
    p99: float | None
    mean: float
    mean_interval: tuple[float, float] | None
    median_interval: tuple[float, float] | None
    spread: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """Summarise at least one sample."""
        x = np.sort(np.asarray(samples, np.float64))
        count = len(x)
        low, mid, high = np.quantile(x, (0.25, 0.5, 0.75))
        mean, interval = float(x.mean()), None
        if count > 1:
            half = _Z * float(x.std(ddof=1)) / math.sqrt(count)
            interval = (mean - half, mean + half)
        return cls(
            samples=count,
            p50=float(mid),
            p90=float(np.quantile(x, 0.9)) if count >= 10 else None,
            p99=float(np.quantile(x, 0.99)) if count >= 100 else None,
            mean=mean,
            mean_interval=interval,
            median_interval=_median_interval(x),
            spread=float((high - low) / mid) if mid > 0 else 0.0,
        )

    @property
    def stable(self) -> bool:
        """Whether the median is known closely enough."""
        if self.median_interval is None:
            return False
        low, high = self.median_interval
        return high - low <= 2 * STABLE * self.p50

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def _median_interval(x: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the sorted samples that span the median 19 times in 20.

    The number of samples below the median is binomial, of which this takes the normal
    approximation (Conover, Practical Nonparametric Statistics, 3.2).
    """
    count = len(x)
    if count < 6:
        return None
    off = _Z * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - off))
    high = min(count - 1, math.ceil(count / 2 + off))
    return float(x[low]), float(x[high])


def ratio_interval(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]
) -> tuple[float, float, float] | None:
    """Return how the round medians of two runs relate, after / before, with a 95 % interval.

    Samples of one round resemble each other more than those of another, so rounds are what is
    repeated here: Welch's interval of the mean logarithm of their medians. Where rounds happen
    to agree, the uncertainty that the samples of each leave is added.

    Args:
        before, after: positive samples by round.

    Returns:
        Ratio of geometric means, lower and upper end; None with fewer than two rounds in either,
        which say nothing about how far rounds lie apart.
    """
    if min(len(before), len(after)) < 2:
        return None
    means, variances, freedoms = [], [], []
    for rounds in (before, after):
        logs = np.log([np.median(x) for x in rounds])
        within = float(np.mean([_median_variance(x) for x in rounds]))
        means.append(float(logs.mean()))
        variances.append((float(logs.var(ddof=1)) + within) / len(logs))
        freedoms.append(len(logs) - 1)
    total = sum(variances)
    if total == 0:
        freedom = float(sum(freedoms))
    else:
        freedom = total**2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    half = student_t(freedom) * math.sqrt(total)
    middle = means[1] - means[0]
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def student_t(freedom: float) -> float:
    """Return Student's t that 95 % of its distribution lie within, for whole degrees below."""
    return _T[min(math.floor(freedom), len(_T)) - 1]


def _median_variance(samples: Sequence[float]) -> float:
    """Return the variance of the logarithm of a round's median, from its interval."""
    interval = _median_interval(np.sort(np.asarray(samples, np.float64)))
    if interval is None:
        return 0.0
    return ((math.log(interval[1]) - math.log(interval[0])) / (2 * _Z)) ** 2
