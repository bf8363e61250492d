"""The thread that bursts run in, beside deployed inference and behind it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.interrupted import give_back
from edgewf.preprocessing import Image
from edgewf.scheduling.duty import DutyCycle
from edgewf.scheduling.thermostat import Thermostat
from edgewf.stream import Window

_HOT_S = 2.0  # between two looks at a hot device
_FIRST_BACKOFF_S = 5.0
_LONGEST_BACKOFF_S = 300.0
_CANCEL_AGAIN_S = 0.2
_TASKS = Path("/proc/self/task")
_NAME = "edgewf-bursts"  # Linux keeps 15 characters

_log = logging.getLogger(__name__)


class EstimateWindow(Protocol):
    """Makes an estimate from one window.

    Args:
        images: uint8 [N, S, S, 3] RGB.
        labels: int64 [N] class indices, or None.
        weights: float64 [N], see `edgewf.stream.Window`.
        source: where the frames came from.
        time: end of the window, seconds since the epoch, UTC.
        progress: called with (step, steps) during the burst, which ends when it raises.
    """

    def __call__(
        self,
        images: Image,
        labels: NDArray[np.int64] | None,
        weights: NDArray[np.float64] | None,
        *,
        source: str,
        time: float,
        progress: Callable[[int, int], None] | None,
    ) -> Estimate: ...


@dataclass(frozen=True)
class Bursts:
    """How the bursts have gone so far.

    Attributes:
        done, failed: their numbers.
        failed_in_a_row: since the last that was done.
        failure: why the last one failed; None once another was done.
        seconds: that the last one which was done took, pauses included.
        running: seconds since the start of the one under way; None without any.
        duty: see `DutyCycle.measured`.
    """

    done: int
    failed: int
    failed_in_a_row: int
    failure: str | None
    seconds: float | None
    running: float | None
    duty: float | None


class _StoppedError(Exception):
    """Ends a burst between two of its slices."""


class BurstThread:
    """Runs one burst after another, at the lowest priority and with pauses between its slices.

    A slice is one engine call. After each the thread rests as the duty cycle says, and for as
    long as the device is hot. A burst that fails is counted and the next one waits for 5 seconds,
    then 10, and so on up to 5 minutes.

    Args:
        load: builds what makes an estimate; called in the thread, so that the threads of a
            runtime are known as its own and get its priority once it has returned.
        on_estimate, on_progress: called in the thread.
        cancel: lets a slice under way in the thread fail soon; called when it closes.
        duty: share of the time that bursts may take.
        every: seconds from the start of one burst to that of the next, at least.
        thermostat: says when to wait.
    """

    def __init__(
        self,
        load: Callable[[], EstimateWindow],
        *,
        on_estimate: Callable[[Estimate], None],
        on_progress: Callable[[int, int], None],
        cancel: Callable[[], None],
        duty: DutyCycle,
        every: float,
        thermostat: Thermostat,
    ) -> None:
        if not 0 <= every < float("inf"):
            raise EdgewfError(f"a burst every {every:g} seconds: the number must be 0 or greater")
        self._load = load
        self._on_estimate = on_estimate
        self._on_progress = on_progress
        self._cancel = cancel
        self._duty = duty
        self._every = every
        self._thermostat = thermostat
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._window: tuple[Callable[[], Window], str, float] | None = None
        self._busy = False
        self._due = 0.0
        self._done = self._failed = self._failed_in_a_row = 0
        self._failure: str | None = None
        self._seconds: float | None = None
        self._began: float | None = None
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)

    def start(self) -> None:
        """Start the thread and wait until its engine is loaded.

        Raises:
            EdgewfError: and whatever else `load` raises.
        """
        self._thread.start()
        self._loaded.result()

    def hand_over(self, take: Callable[[], Window], source: str, when: float) -> None:
        """Offer a full window; one that still waits is dropped for it.

        Args:
            take: returns the window; called once, in the thread.
            source, when: see `EstimateWindow`.
        """
        with self._changed:
            self._window = (take, source, when)
            self._changed.notify_all()

    def hurry(self) -> None:
        """Drop the window that waits, and run a burst as soon as another comes."""
        with self._changed:
            self._window = None
            if not self._failed_in_a_row:
                self._due = 0.0

    def wait(self) -> None:
        """Return when no burst runs and no window waits."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stop.is_set() or not (self._busy or self._window is not None)
            )

    def close(self) -> None:
        """End the burst under way, and the thread."""
        give_back(self._changed)
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        while self._thread.is_alive():
            # A slice ends late where others have the cores, for it waits until nobody wants one.
            self._cancel()
            self._thread.join(_CANCEL_AGAIN_S)

    def report(self) -> Bursts:
        """Return how the bursts have gone."""
        began = self._began  # another thread may end the burst meanwhile
        return Bursts(
            done=self._done,
            failed=self._failed,
            failed_in_a_row=self._failed_in_a_row,
            failure=self._failure,
            seconds=self._seconds,
            running=None if began is None else time.monotonic() - began,
            duty=self._duty.measured(),
        )

    def _run(self) -> None:
        _name_thread()
        try:
            # At full priority: on a busy device it would else take minutes, and somebody waits.
            estimate = self._load()
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        _step_back()
        self._loaded.set_result(None)
        try:
            while True:
                self._burst(estimate, *self._next())
                self._rest()
        except _StoppedError:
            return
        finally:
            self._finish()

    def _next(self) -> tuple[Callable[[], Window], str, float]:
        with self._changed:
            while not self._stop.is_set():
                wait = self._due - time.monotonic()
                if self._window is not None and wait <= 0:
                    taken, self._window = self._window, None
                    self._busy = True
                    return taken
                self._changed.wait(wait if self._window is not None else None)
        raise _StoppedError

    def _burst(
        self, estimate: EstimateWindow, take: Callable[[], Window], source: str, when: float
    ) -> None:
        began = self._began = time.monotonic()
        self._due = began + self._every
        self._wait_while_hot()
        self._duty.begin()
        try:
            window = take()
            result = estimate(
                window.images,
                window.labels,
                window.weights,
                source=source,
                time=when,
                progress=self._slice,
            )
        except _StoppedError:
            raise
        # Runtimes raise classes of their own, all from Exception, and nothing of what a burst
        # may run into is a reason to leave the application without its monitor.
        except Exception as error:
            if self._stop.is_set():
                raise _StoppedError from error
            self._note_failure(error)
        else:
            self._seconds = time.monotonic() - began
            self._done += 1
            self._failed_in_a_row, self._failure = 0, None
            self._on_estimate(result)
        self._finish()

    def _slice(self, step: int, steps: int) -> None:
        self._on_progress(step, steps)
        self._rest()
        self._wait_while_hot()
        self._duty.begin()

    def _rest(self) -> None:
        if self._stop.wait(self._duty.end()):
            raise _StoppedError

    def _wait_while_hot(self) -> None:
        while self._thermostat.hot():
            if self._stop.wait(_HOT_S):
                raise _StoppedError

    def _note_failure(self, error: Exception) -> None:
        self._failed += 1
        self._failed_in_a_row += 1
        if isinstance(error, EdgewfError):
            self._failure = str(error)
        elif isinstance(error, MemoryError):
            self._failure = "not enough memory for a burst: close other programs"
        else:
            self._failure = f"{type(error).__name__}: {error}"
            _log.error("a burst failed", exc_info=error)
        backoff = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (self._failed_in_a_row - 1))
        self._due = max(self._due, time.monotonic() + backoff)

    def _finish(self) -> None:
        self._began = None
        with self._changed:
            self._busy = False
            self._changed.notify_all()


def _name_thread() -> None:
    """Give the calling thread a name that threads which it starts inherit, on Linux."""
    if _TASKS.is_dir():
        with suppress(OSError):
            (_TASKS / str(threading.get_native_id()) / "comm").write_text(_NAME)


def _step_back() -> None:
    """Let the named threads run only where nothing else wants to; Linux alone can tell threads so.

    A thread that wakes up takes a core from SCHED_IDLE at once; from one that is merely nice it
    takes its turn. See sched(7). Threads that these start later inherit it.
    """
    if not _TASKS.is_dir():
        return
    for task in _TASKS.iterdir():
        with suppress(OSError):  # a thread has ended, or a sandbox forbids it
            if (task / "comm").read_text().strip() == _NAME:
                os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
