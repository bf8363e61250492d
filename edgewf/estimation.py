"""A window in, an estimate out: the burst, f, and the reasons to doubt the number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.burst import Burst, Progress, run_burst
from edgewf.calibration import Calibration
from edgewf.engines import Engine, Images
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.settings import BurstSettings

# Below these a burst saw too little to be believed.
_LEAST_SELECTED = 0.05
_LEAST_SPREAD = 0.25


class Estimator:
    """Estimates the deployed network's accuracy on one window after another."""

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        calibration: Calibration | None,
        settings: BurstSettings,
    ) -> None:
        """Bind the parts together.

        Raises:
            EdgewfError: the calibration belongs to another model or another burst.
        """
        if calibration is not None:
            calibration.check(bundle.manifest, settings)
        self.manifest = bundle.manifest
        self.engine = engine
        self.calibration = calibration
        self.settings = settings

    def __call__(
        self,
        images: Images,
        labels: NDArray[np.int64] | None = None,
        *,
        source: str,
        time: float,
        progress: Progress | None = None,
    ) -> Estimate:
        """Estimate from one window.

        Args:
            images: uint8 [N, S, S, 3] RGB, N = settings.window.
            labels: int64 [N], the truth where it is known; only reported beside the estimate.
            source, time: recorded in the estimate.
            progress: see `run_burst`.
        """
        burst = run_burst(self.engine, images, self.settings, progress)
        broken = int((~np.isfinite(burst.record.deployed.confidence)).sum())
        if broken:
            raise EdgewfError(
                f"{self.manifest.model} returned logits that are not finite on {broken} of "
                f"{len(images)} frames: check its weights, and export it again"
            )
        accuracy = interval = None
        if self.calibration is not None:
            f = self.calibration.f
            accuracy = f(burst.from_deployed.weighted)
            interval = f.interval(burst.from_deployed.weighted, len(images))
        truth = None
        if labels is not None:
            truth = float(100 * (burst.record.deployed.label == labels).mean())
        return Estimate(
            accuracy=accuracy,
            interval=interval,
            weighted_flips=burst.from_deployed.weighted,
            flips=burst.from_deployed.count,
            selected_share=burst.selected_share,
            frames=len(images),
            steps=len(burst.record.steps),
            average_confidence=burst.average_confidence,
            flags=self._flags(burst),
            model=self.manifest.model,
            time=time,
            source=source,
            engine=self.engine.name,
            true_accuracy=truth,
        )

    def _flags(self, burst: Burst) -> tuple[str, ...]:
        flags: list[str] = []
        if self.calibration is None:
            flags.append("no_calibration")
        elif not self.calibration.f.low <= burst.from_deployed.weighted <= self.calibration.f.high:
            flags.append("extrapolating")
        if burst.record.steps and burst.selected_share < _LEAST_SELECTED:
            flags.append("nothing_selected")
        labels = burst.record.deployed.label
        # A window of N frames shows a balanced stream of many classes about N/4 of them well. One
        # class is too few in any window.
        expected = min(self.manifest.classes, len(labels) / 4)
        if effective_classes(labels) <= max(1.0, _LEAST_SPREAD * expected):
            flags.append("uniform_window")
        return tuple(flags)


def effective_classes(labels: NDArray[np.int64]) -> float:
    """Return exp(entropy) of the label frequencies: how many classes share the window evenly."""
    _, counts = np.unique(labels, return_counts=True)
    p = counts / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
