"""A monitor over a camera, a file or a folder, until it ends."""

from __future__ import annotations

from dataclasses import dataclass

from edgewf.errors import EdgewfError
from edgewf.monitor import Monitor
from edgewf.stream import Source


@dataclass(frozen=True)
class WatchSummary:
    """How a run went.

    Attributes:
        windows: estimates made.
        seen, kept, dropped: as in `edgewf.listener.Status`.
        leftover: frames of a last window that never filled; no estimate was made from them.
        failed: bursts that failed.
        interrupted: ended by Ctrl-C, not by the source or the number of windows.
    """

    windows: int
    seen: int
    kept: int
    dropped: int
    leftover: int
    failed: int
    interrupted: bool


def watch(
    monitor: Monitor, source: Source, *, stride: int = 1, max_windows: int | None = None
) -> WatchSummary:
    """Give the frames of a source to a monitor, and close both.

    A camera does not wait: frames go on while a burst runs, and what fails is in the monitor's
    health. A recording waits for every burst, so that no window is lost, and the first failure
    ends the run. Ctrl-C ends it between two slices of a burst and is no error.

    Args:
        monitor: made for this source.
        source: frames.
        stride: look at every stride-th frame.
        max_windows: end after so many estimates; None for no end.

    Raises:
        EdgewfError: `stride` or `max_windows` is below 1, the source ended before any window was
            full, or the source failed, or, of a recording, a burst or a listener.
        BrokenPipeError: whoever read stdout is gone.
    """
    seen = 0
    interrupted = False
    with source, monitor:
        if stride < 1 or (max_windows is not None and max_windows < 1):
            raise EdgewfError(
                f"a stride of {stride} and {max_windows} windows at most: both must be 1 or greater"
            )
        try:
            for frame in source:
                seen += 1
                if (seen - 1) % stride == 0:
                    if source.live:
                        monitor.observe(frame.image, when=frame.time, truth=frame.label)
                        monitor.check_pipe()
                    else:
                        monitor.offer(frame.image, when=frame.time, truth=frame.label)
                        monitor.wait()
                        monitor.check()
                if max_windows is not None and monitor.estimates >= max_windows:
                    break
        except KeyboardInterrupt:
            interrupted = True
        monitor.close()
        monitor.check_pipe()
        health = monitor.health()
        if not source.live and not interrupted:
            monitor.check()
        if health.bursts == 0 and not interrupted:
            raise EdgewfError(
                f"{source.uri} ended before a window was full: {seen} frames seen, "
                f"{health.dropped} dropped as near-duplicates, {health.kept} kept; use a longer "
                "recording, a smaller --stride, or calibrate the bundle with a smaller window"
            )
    return WatchSummary(
        windows=health.bursts,
        seen=seen,
        kept=health.kept,
        dropped=health.dropped,
        leftover=health.filled,
        failed=health.burst_failures,
        interrupted=interrupted,
    )
