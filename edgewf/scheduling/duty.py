"""The share of the time that bursts may take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from edgewf.errors import EdgewfError

REMEMBERED_S = 600.0


class DutyCycle:
    """Says how long to rest after each piece of work, and how large the share has been.

    A piece that took t seconds is followed by t (1 / share - 1) seconds of rest. What a GPU does
    after the call returned falls into the piece that waits for it, so it is paid for as well.

    Args:
        share: of the time that work may take, above 0 and up to 1.
        clock: seconds, monotonic.

    Raises:
        EdgewfError: `share` is out of range.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < share <= 1:
            raise EdgewfError(f"a duty cycle of {share:g}: it must be above 0 and at most 1")
        self.share = share
        self._clock = clock
        self._opened = self._began = clock()
        self._pieces: deque[tuple[float, float]] = deque()  # begin and end, oldest first

    def begin(self) -> None:
        """Start a piece of work."""
        self._began = self._clock()

    def end(self) -> float:
        """End the piece of work and return how long to rest, in seconds."""
        now = self._clock()
        self._pieces.append((self._began, now))
        self._forget(now)
        return (now - self._began) * (1 / self.share - 1)

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
