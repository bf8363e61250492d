"""What a burst does to the embeddings of a window, looked at between its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewf.burst import Progress, step_batches, window_parts
from edgewf.engines import Engine, Features, Images, Predictions
from edgewf.engines.host import predictions
from edgewf.errors import EdgewfError
from edgewf.flags import collapsed, effective_classes
from edgewf.flips import count_flips
from edgewf.kernels import reference
from edgewf.phases.centroids import Centroids
from edgewf.settings import BurstSettings

_MOST_LOOKS = 60
# A rise or fall of the distance that is more than chance; its unit is that of clean frames.
_NOTABLE = 0.005


@dataclass(frozen=True)
class Look:
    """The window after some steps, under batch statistics and the affine vector of then.

    Attributes:
        step: number of steps before it.
        distance: mean distance of the embeddings from the nearest class centroid of clean images,
            1 where it is that of clean images; None without centroids.
        classes: effective number of predicted classes.
        entropy: mean over the frames, nats.
        flips, weighted_flips: from the deployed labels, per 1,000 frames.
        accuracy: percent of the predictions that are right; None without labels.
    """

    step: int
    distance: float | None
    classes: float
    entropy: float
    flips: float
    weighted_flips: float
    accuracy: float | None


@dataclass(frozen=True)
class Trajectory:
    """A long burst on one window.

    Attributes:
        looks: from step 0 to the last.
        deployed_accuracy: percent, of the deployed network; None without labels.
        turn: see `turning_point`; None without centroids too.
        collapse: the first step looked at whose predictions have collapsed on few classes; a
            burst of an estimate looks only at every tenth. None if they never have.
    """

    looks: tuple[Look, ...]
    deployed_accuracy: float | None
    turn: int | None
    collapse: int | None

    def to_json(self) -> dict[str, Any]:
        """Return what `edgewf analyze --json` prints of it."""
        return asdict(self)


def follow(
    engine: Engine,
    images: Images,
    settings: BurstSettings,
    centroids: Centroids | None,
    labels: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """Run a burst that collapse does not stop, and look at the whole window between its steps.

    Args:
        engine: the model.
        images: uint8 [N, S, S, 3] RGB, N = settings.window.
        settings: the burst.
        centroids: of the same model; None leaves the distances unknown.
        labels: int64 [N], the truth where it is known.
        progress: called with (steps done, steps in all).

    Raises:
        EdgewfError: another window, or logits or embeddings that are not finite.
    """
    if len(images) != settings.window:
        raise EdgewfError(
            f"a window of {len(images)} frames, but the burst is set to {settings.window}"
        )
    parts = window_parts(len(images), settings)
    order = np.concatenate(parts)
    truth = None if labels is None else labels[order]
    deployed = predictions(np.concatenate([engine.infer(images[part]) for part in parts]))
    engine.reset(settings)
    marks = set(looked_at(settings.steps))
    looks: list[Look] = []
    collapse: int | None = None
    first: NDArray[np.int64] | None = None
    batches = step_batches(len(images), settings)
    for step in range(settings.steps + 1):
        if step:
            engine.step(images[next(batches)])
        if step in marks:
            seen = _whole([engine.features(images[part]) for part in parts], step)
            predicted = reference.labels(seen.logits)
            first = predicted if first is None else first
            if collapse is None and collapsed(first, predicted):
                collapse = step
            looks.append(_look(step, seen, predicted, deployed, centroids, truth))
        if progress is not None:
            progress(step, settings.steps)
    distances = [look.distance for look in looks]
    known = [d for d in distances if d is not None]
    turn = turning_point(known) if len(known) == len(looks) else None
    return Trajectory(
        looks=tuple(looks),
        deployed_accuracy=None if truth is None else _percent(deployed.label == truth),
        turn=None if turn is None else looks[turn].step,
        collapse=collapse,
    )


def looked_at(steps: int) -> list[int]:
    """Return the steps after which to look: all of few, else ever fewer; the first and the last.

    Little happens late that happens fast.
    """
    if steps < _MOST_LOOKS:
        return list(range(steps + 1))
    marks = np.rint(np.geomspace(1, steps + 1, _MOST_LOOKS)).astype(int) - 1
    return sorted({int(mark) for mark in marks})


def turning_point(distances: Sequence[float]) -> int | None:
    """Return where the distance stops falling for good and rises: the end of the first phase.

    It is the index of the smallest distance, if a later one is notably larger; 0 where the second
    phase begins at once, and None while the first one lasts.
    """
    lowest = int(np.argmin(distances))
    return lowest if max(distances[lowest:]) - distances[lowest] > _NOTABLE else None


def _look(
    step: int,
    seen: Features,
    predicted: NDArray[np.int64],
    deployed: Predictions,
    centroids: Centroids | None,
    truth: NDArray[np.int64] | None,
) -> Look:
    _, _, entropy = reference.softmax_entropy(seen.logits)
    flips = count_flips(deployed, predicted)
    return Look(
        step=step,
        distance=None if centroids is None else centroids.distance(seen.embedding),
        classes=effective_classes(predicted),
        entropy=float(entropy.mean()),
        flips=flips.count,
        weighted_flips=flips.weighted,
        accuracy=None if truth is None else _percent(predicted == truth),
    )


def _whole(parts: Sequence[Features], step: int) -> Features:
    seen = Features(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.embedding for part in parts]),
    )
    if not (np.isfinite(seen.logits).all() and np.isfinite(seen.embedding).all()):
        raise EdgewfError(
            f"the model returned numbers that are not finite after {step} steps: use a smaller "
            "--learning-rate or fewer --steps"
        )
    return seen


def _percent(right: NDArray[np.bool_]) -> float:
    return float(100 * right.mean())
