"""The live loop: frame, window, burst, estimate, listeners."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.preprocessing import Image
from edgewf.stream import Source, WindowSampler


@dataclass(frozen=True)
class Status:
    """Where the loop stands; all counts are of frames.

    Attributes:
        seen: read from the source so far.
        kept: taken into windows so far.
        dropped: left out as near-duplicates so far.
        filled: in the window that is being collected.
    """

    seen: int
    kept: int
    dropped: int
    filled: int


@dataclass(frozen=True)
class MonitorSummary:
    """How a run went.

    Attributes:
        windows: estimates made.
        seen, kept, dropped: as in `Status`.
        leftover: frames of a last window that never filled; no estimate was made from them.
        interrupted: ended by Ctrl-C or by `stop`, not by the source or the number of windows.
    """

    windows: int
    seen: int
    kept: int
    dropped: int
    leftover: int
    interrupted: bool


class Listener:
    """What is told of a run, in the thread that runs `monitor`; does nothing unless overridden."""

    def frame(self, status: Status) -> None:
        """Called once before the first frame, then after every frame."""

    def progress(self, step: int, steps: int) -> None:
        """Called while a burst runs."""

    def estimate(self, estimate: Estimate) -> None:
        """Called with every estimate."""

    def close(self) -> None:
        """Called once, however the run ends."""


class EstimateWindow(Protocol):
    """Makes an estimate from one window.

    Args:
        images: uint8 [N, S, S, 3] RGB.
        labels: int64 [N] class indices, or None.
        source: where the frames came from.
        time: end of the window, seconds since the epoch, UTC.
        progress: called with (step, steps) during the burst.
    """

    def __call__(
        self,
        images: Image,
        labels: NDArray[np.int64] | None,
        *,
        source: str,
        time: float,
        progress: Callable[[int, int], None] | None,
    ) -> Estimate: ...


def monitor(
    source: Source,
    preprocess: Callable[[Image], Image],
    sampler: WindowSampler,
    estimate: EstimateWindow,
    *,
    listeners: Sequence[Listener] = (),
    max_windows: int | None = None,
    stop: threading.Event | None = None,
) -> MonitorSummary:
    """Watch a source until it ends, and hand one estimate per full window to the listeners.

    Source and listeners are closed however the run ends. Ctrl-C ends it at once and is no error.

    Args:
        source: frames; cameras lose those that pass during a burst, other sources none.
        preprocess: from a frame, uint8 [H, W, 3], to a crop, uint8 [S, S, 3].
        sampler: decides which crops make a window.
        estimate: from a window to an estimate.
        listeners: told in this order.
        max_windows: end after so many estimates; None for no end.
        stop: ends the run at the next frame once it is set; a burst under way is finished.

    Raises:
        EdgewfError: `max_windows` is below 1, the source ended before any window was full, or the
            source or a listener failed.
    """
    windows = kept = 0
    interrupted = False

    def progress(step: int, steps: int) -> None:
        for listener in listeners:
            listener.progress(step, steps)

    def report() -> None:
        status = Status(sampler.seen, kept, sampler.dropped, sampler.filled)
        for listener in listeners:
            listener.frame(status)

    with ExitStack() as closing:
        closing.enter_context(source)
        for listener in listeners:
            closing.callback(listener.close)
        if max_windows is not None and max_windows < 1:
            raise EdgewfError(f"{max_windows} windows at most: the number must be 1 or greater")
        try:
            report()
            for frame in source:
                if stop is not None and stop.is_set():
                    interrupted = True
                    break
                kept += sampler.offer(preprocess(frame.image), frame.label)
                report()
                if not sampler.full:
                    continue
                window = sampler.take()
                result = estimate(
                    window.images,
                    window.labels,
                    source=source.uri,
                    time=frame.time,
                    progress=progress,
                )
                windows += 1
                for listener in listeners:
                    listener.estimate(result)
                if windows == max_windows:
                    break
        except KeyboardInterrupt:
            interrupted = True
        if windows == 0 and not interrupted:
            raise EdgewfError(
                f"{source.uri} ended before a window was full: {sampler.seen} frames seen, "
                f"{sampler.dropped} dropped as near-duplicates, {kept} kept; use a longer "
                "recording, a smaller --stride, or calibrate the bundle with a smaller window"
            )
    return MonitorSummary(
        windows=windows,
        seen=sampler.seen,
        kept=kept,
        dropped=sampler.dropped,
        leftover=sampler.filled,
        interrupted=interrupted,
    )
