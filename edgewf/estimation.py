"""A window in, an estimate out: the burst, the estimator, and the reasons to doubt the number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.burst import Burst, Progress, run_burst
from edgewf.calibration import Calibration, Point
from edgewf.doubtful import DoubtfulFrame, doubtful_frames
from edgewf.dropout import DropoutInference
from edgewf.engines import Engine, Images
from edgewf.estimate import Estimate
from edgewf.estimators import DEFAULT
from edgewf.estimators.fitted import Fitted, Scores
from edgewf.estimators.table import asks_for_dropout, evaluate
from edgewf.flags import UsualClasses, window_flags
from edgewf.settings import BurstSettings
from edgewf.stream.similarity import duplicated_share
from edgewf.weighting import effective_frames, reweighted

# Scores that every estimate shows, and the one that tells whether predictions crowd.
_REPORTED = {"weighted_flips", "flips", "average_confidence", "dispersion"}


class Estimator:
    """Estimates the deployed network's accuracy on one window after another.

    Attributes:
        doubtful: the frames of the last window that are the least to be trusted, the worst first.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        calibration: Calibration | None,
        settings: BurstSettings,
        estimator: str = DEFAULT,
    ) -> None:
        """Bind the parts together.

        Args:
            bundle, engine: the model.
            calibration: None leaves the accuracy unknown.
            settings: the burst.
            estimator: see `edgewf.estimators.known`.

        Raises:
            EdgewfError: the calibration belongs to another model or another burst, or does not
                fix the estimator.
        """
        if calibration is not None:
            calibration.check(bundle.manifest, settings)
        self.doubtful: tuple[DoubtfulFrame, ...] = ()
        self.manifest = bundle.manifest
        self.engine = engine
        self.fitted = None if calibration is None else calibration.estimator(estimator)
        self._references = None if calibration is None else calibration.references
        self._usual: UsualClasses | None = None
        if calibration is not None and self.fitted is not None:
            self._usual = usual_classes(self.fitted, calibration.points, bundle.manifest.classes)
        self.settings = settings
        self._dropout: DropoutInference | None = None
        if self.fitted is not None and asks_for_dropout(self.fitted.scores):
            self._dropout = DropoutInference(bundle)

    def __call__(
        self,
        images: Images,
        labels: NDArray[np.int64] | None = None,
        weights: NDArray[np.float64] | None = None,
        *,
        source: str,
        time: float,
        progress: Progress | None = None,
    ) -> Estimate:
        """Estimate from one window.

        Args:
            images: uint8 [N, S, S, 3] RGB, N = settings.window.
            labels: int64 [N], the truth where it is known; only reported beside the estimate.
            weights: float64 [N] with mean 1, how much of the stream each frame stands for; None
                where all stand for as much.
            source, time: recorded in the estimate.
            progress: see `run_burst`.
        """
        burst = run_burst(self.engine, images, self.settings, progress, self._dropout)
        wanted = _REPORTED if self.fitted is None else {*_REPORTED, *self.fitted.scores}
        if weights is None:
            weights = np.ones(len(images))
        record = reweighted(burst.record, weights)
        scores = evaluate(sorted(wanted), record, self._references)
        accuracy = interval = few = None
        if self.fitted is not None:
            accuracy = self.fitted(scores)
            few = self._few_classes(burst, accuracy)
            effective = effective_frames(weights)
            # At the worst a class is right or wrong as a whole, and the window a sample of them.
            effective = effective if few is None else min(effective, few)
            interval = self.fitted.interval(scores, len(images), effective)
        self.doubtful = doubtful_frames(images, burst.record)
        truth = None
        if labels is not None:
            right = burst.record.deployed.label == labels
            truth = float(100 * np.average(right, weights=weights))
        return Estimate(
            accuracy=accuracy,
            interval=interval,
            weighted_flips=scores["weighted_flips"],
            flips=scores["flips"],
            selected_share=burst.selected_share,
            frames=len(images),
            steps=len(burst.record.steps),
            average_confidence=scores["average_confidence"],
            flags=self._flags(burst, scores, duplicated_share(images), few is not None),
            estimator=None if self.fitted is None else self.fitted.name,
            scores={} if self.fitted is None else {k: scores[k] for k in self.fitted.scores},
            model=self.manifest.model,
            time=time,
            source=source,
            engine=self.engine.name,
            true_accuracy=truth,
        )

    def _few_classes(self, burst: Burst, accuracy: float) -> float | None:
        """Return how many classes share the predictions, if that is unusually few, else None."""
        assert self._usual is not None
        # Of the frames as they are: batch statistics know no weights.
        found = evaluate(["dispersion"], burst.record, self._references)
        return self._usual.few(accuracy, found["dispersion"])

    def _flags(
        self, burst: Burst, scores: Scores, duplicated: float, crowded: bool
    ) -> tuple[str, ...]:
        flags: list[str] = []
        if self.fitted is None:
            flags.append("no_calibration")
        elif not self.fitted.covers(scores):
            flags.append("extrapolating")
        found = window_flags(burst.record, burst.selected_share, duplicated, crowded, burst.stopped)
        return (*flags, *found)


def usual_classes(fitted: Fitted, points: Sequence[Point], classes: int) -> UsualClasses:
    """Return how many of `classes` classes the predictions on calibration windows share."""
    found = ((fitted(p.scores), classes ** p.scores["dispersion"]) for p in points)
    return UsualClasses(tuple(found), classes)
