"""Where graphs run: one protocol, one file a runtime.

A burst is a sequence of calls on an engine with one read-back at its end, so that an engine on a
GPU never has to wait for the host in between:

    engine.reset(settings)
    engine.record(batch)     for each batch of the window: the labels before
    engine.step(batch)       for each step
    engine.probe(batch)      for each batch of the window, in the same order: the labels after
    engine.read()

Whoever wants to see how features move asks `engine.features(batch)` between any two of them, which
waits; a burst of the default settings never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgewf.settings import BurstSettings

Images = NDArray[np.uint8]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """What a network said of N frames.

    Attributes:
        label: int64 [N], class of the largest logit.
        confidence: float64 [N], its probability.
        logits: float32 [N, K].
    """

    label: NDArray[np.int64]
    confidence: NDArray[np.float64]
    logits: Float32

    def __getitem__(self, frames: NDArray[np.int64]) -> Predictions:
        """Return those of some frames, in their order."""
        return Predictions(self.label[frames], self.confidence[frames], self.logits[frames])


@dataclass(frozen=True)
class Features:
    """What a network makes of B frames under the burst's statistics and affine vector.

    Attributes:
        logits: float32 [B, K].
        embedding: float32 [B, D], what the last linear layer sees.
    """

    logits: Float32
    embedding: Float32


@dataclass(frozen=True)
class StepTrace:
    """One optimisation step, measured before its update.

    Attributes:
        samples: size of the batch.
        mean_entropy: nats, over the whole batch.
        reliable, selected: samples that passed the entropy margin, and both margins.
        moved: the affine vector changed.
    """

    samples: int
    mean_entropy: float
    reliable: int
    selected: int
    moved: bool


@dataclass(frozen=True)
class BurstRecord:
    """What an engine reads back after a burst on N frames.

    Attributes:
        deployed: predictions with running statistics.
        before: predictions with batch statistics and the deployed affine vector.
        after: predictions with batch statistics and the adapted affine vector.
        steps: one trace a step.
        affine_change: L2 distance of the adapted from the deployed affine vector.
        dropout: float32 [M, N, K], logits of dropout inferences on `before`'s network, see
            `edgewf.dropout`; None where they were not asked for. No engine makes them.
    """

    deployed: Predictions
    before: Predictions
    after: Predictions
    steps: tuple[StepTrace, ...]
    affine_change: float
    dropout: Float32 | None = None


class Role(Enum):
    """What an engine runs beside in its process; one on a CPU keeps out of the other's way.

    Deployed inference and bursts have an engine each, and inference comes first.
    """

    ALONE = "nothing"
    INFERENCE = "bursts"
    BURSTS = "inference"


class Engine(Protocol):
    """A runtime that holds the graphs of a bundle and the state of one burst.

    Attributes:
        name: as `--engine` spells it; estimates record it.
    """

    name: str

    def infer(self, images: Images) -> Float32:
        """Return the deployed network's logits [B, K] for uint8 [B, S, S, 3]."""

    def reset(self, settings: BurstSettings) -> None:
        """Start a burst: deployed affine vector, no velocity, empty tables.

        The first with these settings loads or compiles what they need and may take seconds.
        """

    def record(self, images: Images) -> None:
        """Append the labels before the burst, deployed and under batch statistics."""

    def step(self, images: Images) -> None:
        """Run forward, objective, backward and update on one batch."""

    def probe(self, images: Images) -> None:
        """Append the labels after the burst."""

    def features(self, images: Images) -> Features:
        """Return what the network makes of at most a batch now; waits, and changes nothing."""

    def cancel(self) -> None:
        """Let a call under way in another thread fail soon if it may take seconds; later ones, too.

        It may miss a call that is just beginning, so ask again until that thread is done.
        """

    def read(self) -> BurstRecord:
        """Return everything since `reset`; what `after` holds where nothing was probed is open."""
