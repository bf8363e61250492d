"""Engines whose burst lives in host memory: all but how a runtime runs the graphs.

`HostEngine` keeps affine vector, velocity, running mean and tables in NumPy and calls
`edgewf.kernels.reference`; a runtime adds four methods that run graphs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.engines import BurstRecord, Features, Float32, Images, Predictions, StepTrace
from edgewf.kernels import reference
from edgewf.settings import BurstSettings

LogitsGradient = Callable[[Float32], Float32]
"""From logits [B, K] to the gradient of a loss with respect to them, times the bundle's loss scale;
both float32."""


class HostEngine(ABC):
    """The burst of `edgewf.engines.Engine` on the host.

    The deployed graph, the deployed affine vector and the bundle's files are never written to:
    a burst works on its own copy of `affine`.

    Attributes:
        name: as `--engine` spells it.
        joins_graphs: forward and backward run as one graph, so that no moment lies between them.
        bundle: what the engine runs.
        affine: float32 [P], the burst's own.
        source_weight: float32 [1], the running statistics' part of those in use.
    """

    name: str
    joins_graphs = False

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.affine = bundle.affine.copy()
        self.source_weight = np.zeros(1, np.float32)
        self._velocity = np.zeros_like(self.affine)
        self._settings: BurstSettings | None = None
        self._fisher: Float32 | None = None
        self._mean: NDArray[np.float64] | None = None
        self._loss: float | None = None
        self._deployed: list[Predictions] = []
        self._before: list[Predictions] = []
        self._after: list[Predictions] = []
        self._steps: list[StepTrace] = []

    @abstractmethod
    def infer(self, images: Images) -> Float32:
        """Return the deployed network's logits [B, K] for uint8 [B, S, S, 3]."""

    @abstractmethod
    def adapted_logits(self, images: Images) -> Float32:
        """Return logits [B, K] under the burst's statistics and affine vector."""

    @abstractmethod
    def features(self, images: Images) -> Features:
        """Return logits [B, K] and embeddings [B, D], see `edgewf.engines.Engine`."""

    @abstractmethod
    def gradient(self, images: Images, dlogits: LogitsGradient) -> Float32:
        """Return the gradient [P] of a loss with respect to `affine`.

        Args:
            images: uint8 [B, S, S, 3].
            dlogits: called once, with the batch's logits; it may not keep them, the runtime
                owns their memory.
        """

    def affine_gradient(self, images: Images, dlogits: Float32) -> tuple[Float32, Float32]:
        """Return logits [B, K] and the gradient [P] of sum(dlogits * logits)."""
        seen: list[Float32] = []

        def constant(logits: Float32) -> Float32:
            seen.append(logits.copy())
            return dlogits

        gradient = self.gradient(images, constant)
        return seen[0], gradient

    def feed(self, images: Images) -> dict[str, Any]:
        """Return the inputs of a graph that takes the burst's statistics and affine vector."""
        return {"images": images, "affine": self.affine, "source_weight": self.source_weight}

    def reset(self, settings: BurstSettings) -> None:
        self._settings = settings
        self.source_weight = np.array([settings.source_weight], np.float32)
        self._fisher = self.bundle.fisher() if settings.kernel_objective.fisher_weight else None
        self._start()
        self._loss = None
        self._deployed, self._before, self._after, self._steps = [], [], [], []

    def record(self, images: Images) -> None:
        self._deployed.append(predictions(self.infer(images)))
        self._before.append(predictions(self.adapted_logits(images)))

    def probe(self, images: Images) -> None:
        self._after.append(predictions(self.adapted_logits(images)))

    def step(self, images: Images) -> None:
        settings = self._settings
        assert settings is not None, "reset() starts a burst"
        objective = settings.kernel_objective
        if objective.reset_every and self._steps and len(self._steps) % objective.reset_every == 0:
            self._start()
        first, gradient = self._rows_and_gradient(images)
        rows = first
        if objective.sharpness and first.selected.any() and np.isfinite(gradient).all():
            rows, gradient = self._uphill(images, first, gradient)
        selected, self._mean = reference.em_reduce(rows, self._mean)
        pull = None
        if self._fisher is not None:
            pull = reference.fisher_pull(
                self.affine, self.bundle.affine, self._fisher, objective.fisher_weight
            )
        moved = reference.sgd_update(
            self.affine,
            self._velocity,
            gradient,
            n_selected=selected,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            loss_scale=self.bundle.manifest.loss_scale,
            pull=pull,
        )
        if objective.recovery and selected:
            self._recover(float(rows.entropy[rows.selected].mean()), objective.recovery)
        self._steps.append(
            StepTrace(
                samples=len(images),
                mean_entropy=float(first.entropy.mean()),
                reliable=int(first.reliable.sum()),
                selected=selected,
                moved=moved,
            )
        )

    def _start(self) -> None:
        """Put the burst's parameters back where the deployed ones are, without momentum."""
        self.affine = self.bundle.affine.copy()
        self._velocity = np.zeros_like(self.affine)
        self._mean = None

    def _rows_and_gradient(
        self, images: Images, among: NDArray[np.bool_] | None = None
    ) -> tuple[reference.Rows, Float32]:
        """Return what the objective says of a batch, and its gradient [P] times the loss scale."""
        assert self._settings is not None
        objective = self._settings.kernel_objective
        loss_scale = np.float32(self.bundle.manifest.loss_scale)
        seen: list[reference.Rows] = []

        def upstream(logits: Float32) -> Float32:
            seen.append(reference.em_objective(logits, objective, self._mean, among))
            scaled: Float32 = seen[0].dlogits * loss_scale
            return scaled

        gradient = self.gradient(images, upstream)
        return seen[0], gradient

    def _uphill(
        self, images: Images, first: reference.Rows, gradient: Float32
    ) -> tuple[reference.Rows, Float32]:
        """Do the second pass of SAR, from the parameters that a step uphill leads to."""
        assert self._settings is not None
        here = self.affine
        self.affine = here + reference.ascent(gradient, self._settings.kernel_objective.sharpness)
        try:
            return self._rows_and_gradient(images, among=first.selected)
        finally:
            self.affine = here

    def _recover(self, loss: float, least: float) -> None:
        """Start again if the running mean of the losses is below `least`.

        As in SAR's code the mean goes on, so that it starts again until the losses rise.
        """
        decay = reference.MEAN_DECAY
        self._loss = loss if self._loss is None else decay * self._loss + (1 - decay) * loss
        if self._loss < least:
            self._start()

    def read(self) -> BurstRecord:
        classes = self.bundle.manifest.classes
        return BurstRecord(
            deployed=_joined(self._deployed, classes),
            before=_joined(self._before, classes),
            after=_joined(self._after, classes),
            steps=tuple(self._steps),
            affine_change=float(np.linalg.norm(self.affine - self.bundle.affine)),
        )


def predictions(logits: Float32) -> Predictions:
    """Return what logits [B, K] say, with a copy of them."""
    p, _, _ = reference.softmax_entropy(logits)
    return Predictions(reference.labels(logits), p.max(axis=1), logits.copy())


def _joined(parts: list[Predictions], classes: int) -> Predictions:
    if not parts:
        return Predictions(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, classes), np.float32))
    return Predictions(
        np.concatenate([p.label for p in parts]),
        np.concatenate([p.confidence for p in parts]),
        np.concatenate([p.logits for p in parts]),
    )
