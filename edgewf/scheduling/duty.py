"""The share of the time that bursts may take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from edgewf.errors import EdgewfError

REMEMBERED_S = 600.0

_SCHEDSTAT = Path("/proc/thread-self/schedstat")


def waited() -> float:
    """Return for how many seconds the calling thread has been ready without getting a core.

    Linux counts this for each thread, see proc_pid_schedstat(5); 0 where it is not told.
    """
    try:
        return int(_SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class DutyCycle:
    """Says how long to rest after each piece of work, and how large the share has been.

    A piece that took t seconds is followed by t (1 / share - 1) seconds of rest. What a GPU does
    after the call returned falls into the piece that waits for it, so it is paid for as well. The
    time in which others had the cores is not: on a busy device a piece of milliseconds can last
    for seconds, and rests in proportion to that would leave no estimates at all.

    Args:
        share: of the time that work may take, above 0 and up to 1.
        clock: seconds, monotonic.
        waited: seconds that the calling thread has waited for a core so far.

    Raises:
        EdgewfError: `share` is out of range.
    """

    def __init__(
        self,
        share: float,
        clock: Callable[[], float] = time.monotonic,
        waited: Callable[[], float] = waited,
    ) -> None:
        if not 0 < share <= 1:
            raise EdgewfError(f"a duty cycle of {share:g}: it must be above 0 and at most 1")
        self.share = share
        self._clock = clock
        self._waited = waited
        self._waited_before = 0.0
        self._opened = self._began = clock()
        self._pieces: deque[tuple[float, float]] = deque()  # begin and end, oldest first

    def begin(self) -> None:
        """Start a piece of work, in the thread that will end it."""
        self._waited_before = self._waited()
        self._began = self._clock()

    def end(self) -> float:
        """End the piece of work and return how long to rest, in seconds."""
        now = self._clock()
        began = min(now, self._began + self._waited() - self._waited_before)
        self._pieces.append((began, now))
        self._forget(now)
        return (now - began) * (1 / self.share - 1)

    def measured(self) -> float | None:
        """Return the share of the last ten minutes in which work ran; None before the first."""
        if not self._pieces:
            return None
        now = self._clock()
        since = max(now - REMEMBERED_S, self._opened)
        # A copy, because another thread may add a piece meanwhile.
        worked = sum(end - max(begin, since) for begin, end in tuple(self._pieces) if end > since)
        return min(1.0, worked / (now - since)) if now > since else None

    def _forget(self, now: float) -> None:
        while self._pieces and self._pieces[0][1] < now - REMEMBERED_S:
            self._pieces.popleft()
