"""Bursts wait while the device is hot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgewf.jetson import Board, BoardState

MARGIN = 5.0
"""Degrees below the kernel's first trip point at which bursts stop, unless a limit is given."""

HYSTERESIS = 3.0
"""Degrees below the limit at which they go on."""

_FRESH_S = 2.0


class Thermostat:
    """Reads the board every two seconds at most and says whether it is too hot for bursts.

    Too hot means at or above the limit, and then until it is `HYSTERESIS` degrees below; or that
    the device is throttled, because then the deployed network needs all there is.

    Args:
        board: what is read.
        limit: degrees Celsius; None for `MARGIN` degrees below the lowest passive trip point, and
            no limit where there is none.
        clock: seconds, monotonic.

    Attributes:
        limit: in force; None without any.
    """

    def __init__(
        self, board: Board, limit: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if limit is None and board.passive_trip is not None:
            limit = board.passive_trip - MARGIN
        self.limit = limit
        self._board = board
        self._clock = clock
        self._lock = threading.Lock()
        self._above = False
        self._read(clock())

    @property
    def state(self) -> BoardState:
        """What the board said, at most two seconds ago."""
        self.hot()
        return self._state

    def hot(self) -> bool:
        """Return whether bursts have to wait."""
        with self._lock:
            now = self._clock()
            if now - self._when >= _FRESH_S:
                self._read(now)
            return self._above or bool(self._state.throttled)

    def problems(self) -> list[str]:
        """Return what the owner should know, as sentences."""
        state, found = self.state, []
        if self._above:
            found.append(
                f"bursts wait because the device is at {state.temperature:.0f} °C, limit "
                f"{self.limit:.0f} °C: cool it, or raise --max-temperature"
            )
        if state.throttled:
            found.append(
                "bursts wait because the device is throttled: check its cooling and power supply"
            )
        return found

    def _read(self, now: float) -> None:
        self._state = self._board.read()
        self._when = now
        temperature = self._state.temperature
        if temperature is None or self.limit is None:
            self._above = False
        else:
            self._above = temperature >= self.limit - HYSTERESIS * self._above
