"""The thread that tells the listeners, so that none of them can hold up a frame or a burst."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.interrupted import give_back
from edgewf.listener import Listener, Status

_POLL_S = 0.2
_SLOW_S = 5.0
_LAST_WAIT_S = 5.0

_log = logging.getLogger(__name__)


class Announcer:
    """Hands news to listeners in their order, in one thread.

    Estimates are kept until every listener has had them. Of counts and steps only the newest
    matter, and only those are told.

    Args:
        listeners: who is told.
        health: puts together the state of the monitor; called in the thread.
        every: seconds between two reports of health.

    Attributes:
        pipe_error: stdout or another pipe that a listener writes to has lost its reader.
    """

    def __init__(
        self, listeners: Sequence[Listener], health: Callable[[], Health], every: float
    ) -> None:
        self._listeners = tuple(listeners)
        self._health = health
        self._every = every
        self._changed = threading.Condition()
        self._estimates: deque[Estimate] = deque()
        self._busy = False
        self._closing = False
        # Written by one thread and read by another without a lock: each is replaced as a whole.
        self._status = Status(0, 0, 0, 0)
        self._step: tuple[int, int] | None = None
        self._errors: dict[tuple[int, str], str] = {}  # by listener and what it was told
        self._slowest: tuple[float, str] = (0.0, "")
        self.pipe_error: BrokenPipeError | None = None
        self._thread = threading.Thread(target=self._run, name="edgewf-listeners", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def frame(self, status: Status) -> None:
        """Note where the monitor stands; costs next to nothing."""
        self._status = status

    def progress(self, step: int, steps: int) -> None:
        """Note where a burst stands."""
        self._step = (step, steps)

    def estimate(self, estimate: Estimate) -> None:
        """Queue an estimate."""
        with self._changed:
            self._estimates.append(estimate)
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when every listener has had every estimate."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._estimates or self._busy))

    def problems(self) -> list[str]:
        """Return what went wrong with listeners, as sentences."""
        found = list(dict.fromkeys(self._errors.values()))
        seconds, name = self._slowest
        if seconds > _SLOW_S:
            found.append(f"{name} took {seconds:.0f} s: what is reported may be that late")
        return found

    def close(self) -> None:
        """Tell the listeners the rest, close them, and end the thread.

        A listener that hangs is left behind after some seconds.
        """
        give_back(self._changed)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is None:  # start() was never reached
            self._close_listeners()
        else:
            self._thread.join(_LAST_WAIT_S + _SLOW_S)

    def _run(self) -> None:
        told = Status(0, 0, 0, 0)
        try:
            self._tell("frame", told)
            # Before any estimate: whoever reads one may ask a health probe next.
            self._tell("health", self._health())
            next_health = time.monotonic() + self._every
            while True:
                with self._changed:
                    if not self._estimates and not self._closing:
                        self._changed.wait(_POLL_S)
                    estimates = tuple(self._estimates)
                    self._estimates.clear()
                    closing, self._busy = self._closing, bool(estimates)
                if self._status != told:
                    told = self._status
                    self._tell("frame", told)
                step, self._step = self._step, None
                if step is not None:
                    self._tell("progress", *step)
                for estimate in estimates:
                    self._tell("estimate", estimate)
                if time.monotonic() >= next_health or closing:
                    next_health = time.monotonic() + self._every
                    health = self._health()
                    self._slowest = (0.0, "")
                    self._tell("health", health)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
                if closing and not self._estimates:
                    return
        finally:
            self._close_listeners()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            self._call(listener, "close")

    def _tell(self, what: str, *news: object) -> None:
        for listener in self._listeners:
            began = time.monotonic()
            self._call(listener, what, *news)
            took = time.monotonic() - began
            if took > self._slowest[0]:
                self._slowest = (took, type(listener).__name__)

    def _call(self, listener: Listener, what: str, *news: object) -> None:
        key = (id(listener), what)
        try:
            getattr(listener, what)(*news)
        except BrokenPipeError as error:
            self.pipe_error = error
        # A listener may be the user's code or talk to any library; none may end the monitor.
        except Exception as error:
            if isinstance(error, (EdgewfError, OSError)):
                self._errors[key] = str(error)
            else:
                self._errors[key] = f"{type(listener).__name__}: {type(error).__name__}: {error}"
                _log.error("a listener failed", exc_info=error)
        else:
            self._errors.pop(key, None)
            # What was left undone is tried again with every report, see `Listener`.
            if what == "health" and type(listener).health is not Listener.health:
                self._errors.pop((id(listener), "estimate"), None)
