"""What every score of a window has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import BurstRecord, Float32

Labels = NDArray[np.int64]
Reference = Mapping[str, Any]
Clean = Sequence[tuple[BurstRecord, Labels]]
"""Windows without shift: what a burst read back of N images, and their classes, int64 [N]."""


class Score(Protocol):
    """A number that a window's predictions yield, from which a curve makes an accuracy.

    Attributes:
        name: its key among the scores of a window, see `edgewf.estimators`.
    """

    @property
    def name(self) -> str: ...

    def reference(self, clean: Clean) -> dict[str, Any]:
        """Return what the score must know of clean windows, one or more, ready for JSON."""

    def __call__(self, record: BurstRecord, reference: Reference) -> float:
        """Return the score of a window, given what `reference` returned for the same model."""


@dataclass(frozen=True)
class OfRecord:
    """A score of what a burst read back, with nothing to know of clean images.

    Attributes:
        name: see `Score`.
        function: from the record to the score.
    """

    name: str
    function: Callable[[BurstRecord], float]

    def reference(self, clean: Clean) -> dict[str, Any]:
        """Return nothing: the window speaks for itself."""
        return {}

    def __call__(self, record: BurstRecord, reference: Reference) -> float:
        """Return the score."""
        return self.function(record)


@dataclass(frozen=True)
class OfLogits:
    """A score of the deployed network's logits alone.

    Attributes:
        name: see `Score`.
        function: from logits [N, K] to the score.
    """

    name: str
    function: Callable[[Float32], float]

    def reference(self, clean: Clean) -> dict[str, Any]:
        """Return nothing: the window speaks for itself."""
        return {}

    def __call__(self, record: BurstRecord, reference: Reference) -> float:
        """Return the score of the deployed logits."""
        return self.function(record.deployed.logits)
