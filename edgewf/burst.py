"""One burst: record the labels, minimise entropy for a few steps, look at the labels again.

Nothing outlives it: the engine works on a copy of the BatchNorm affine parameters, and the next
`reset` drops it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgewf.dropout import DropoutInference
from edgewf.engines import BurstRecord, Engine, Float32, Images
from edgewf.errors import EdgewfError
from edgewf.flags import collapsed
from edgewf.kernels import reference
from edgewf.settings import BurstSettings

CHECK_EVERY = 10  # steps; defaults stay below it
_WATCHED_FRAMES = 100

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Burst:
    """What a burst found on a window of N frames, all predictions in the window's order.

    Attributes:
        record: labels before and after, and one trace a step.
        selected_share: mean over steps of the share of the batch that adapted, 0 to 1.
        stopped: the predictions had collapsed on few classes, and the rest of the steps was left
            out.
    """

    record: BurstRecord
    selected_share: float
    stopped: bool = False


def run_burst(
    engine: Engine,
    images: Images,
    settings: BurstSettings,
    progress: Progress | None = None,
    dropout: DropoutInference | None = None,
) -> Burst:
    """Run a burst on a window; one whose predictions collapse on few classes ends early.

    That is looked for after every 10th step, on 100 frames of the window, so bursts of up to 10
    steps cost no more for it, and an engine on a GPU does not wait.

    One without steps takes labels once, before: it compares the deployed network with itself under
    batch statistics.

    Args:
        engine: holds the model.
        images: uint8 [N, S, S, 3] RGB, N = settings.window.
        settings: how long and how strong.
        progress: called with (calls done, calls in all) after every engine call.
        dropout: makes the record's dropout inferences, before the first step; they cost another
            pass over the window.

    Raises:
        EdgewfError: the window has another size than the settings say, or the deployed network
            returns logits that are not finite.
    """
    if len(images) != settings.window:
        raise EdgewfError(
            f"a window of {len(images)} frames, but the burst is set to {settings.window}"
        )
    batch = settings.batch_size
    parts = window_parts(len(images), settings)
    order = np.concatenate(parts)
    watched = parts[: -(-_WATCHED_FRAMES // batch)]
    checks = (settings.steps - 1) // CHECK_EVERY if settings.steps else 0
    looks = (checks + 1) * len(watched) if checks else 0
    # Without steps nothing changes, so labels need not be taken twice.
    last = parts if settings.steps else []
    calls = (1 + (dropout is not None)) * len(parts) + settings.steps + looks + len(last)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, calls)

    def labels_now() -> NDArray[np.int64]:
        found = []
        for part in watched:
            found.append(reference.labels(engine.features(images[part]).logits))
            tick()
        return np.concatenate(found)

    engine.reset(settings)
    for part in parts:
        engine.record(images[part])
        tick()
    embeddings: list[Float32] = []
    for part in parts if dropout is not None else []:
        embeddings.append(engine.features(images[part]).embedding)
        tick()
    first = labels_now() if checks else None
    stopped = False
    for step, part in enumerate(step_batches(len(images), settings), start=1):
        engine.step(images[part])
        tick()
        if first is None or step % CHECK_EVERY or step == settings.steps:
            continue
        stopped = collapsed(first, labels_now())
        if stopped:
            calls = done + len(last)
            break
    for part in last:
        engine.probe(images[part])
        tick()
    record = engine.read()
    if not last:
        record = replace(record, after=record.before)
    record = _in_window_order(record, order)
    if dropout is not None:
        embedding = np.concatenate(embeddings)[np.argsort(order)]
        record = replace(record, dropout=dropout(embedding, settings.seed))
    broken = int((~np.isfinite(record.deployed.confidence)).sum())
    if broken:
        raise EdgewfError(
            f"the model returned logits that are not finite on {broken} of {len(images)} frames: "
            "check its weights, and export it again"
        )
    shares = [trace.selected / trace.samples for trace in record.steps]
    return Burst(
        record=record,
        selected_share=float(np.mean(shares)) if shares else 0.0,
        stopped=stopped,
    )


def window_parts(frames: int, settings: BurstSettings) -> list[NDArray[np.int64]]:
    """Cut the window into the batches in which its labels are taken, in random order."""
    order = np.random.default_rng([settings.seed, 0]).permutation(frames)
    return np.split(order, frames // settings.batch_size)


def step_batches(frames: int, settings: BurstSettings) -> Iterator[NDArray[np.int64]]:
    """Cut the window into batches, in a new order each time around."""
    per_epoch = frames // settings.batch_size
    order = np.zeros(0, np.int64)
    for step in range(settings.steps):
        epoch, index = divmod(step, per_epoch)
        if index == 0:
            order = np.random.default_rng([settings.seed, epoch + 1]).permutation(frames)
        yield order[index * settings.batch_size : (index + 1) * settings.batch_size]


def _in_window_order(record: BurstRecord, order: NDArray[np.int64]) -> BurstRecord:
    inverse = np.argsort(order)
    return replace(
        record,
        deployed=record.deployed[inverse],
        before=record.before[inverse],
        after=record.after[inverse],
    )
