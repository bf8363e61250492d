"""Listeners that are slow, broken or gone, and what the others still hear."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from edgewf import announcer as module
from edgewf.announcer import Announcer
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.listener import Listener, Status
from tests.states import ESTIMATE, WELL


class Notes(Listener):
    """Keeps what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def frame(self, status: Status) -> None:
        self.told.append(status)

    def progress(self, step: int, steps: int) -> None:
        self.told.append((step, steps))

    def estimate(self, estimate: Estimate) -> None:
        self.told.append(estimate.time)

    def health(self, health: Health) -> None:
        self.told.append(health)

    def close(self) -> None:
        self.told.append("close")


@contextmanager
def announcing(*listeners: Listener, every: float = 1e6) -> Iterator[Announcer]:
    announcer = Announcer(listeners, lambda: WELL, every)
    announcer.start()
    try:
        yield announcer
    finally:
        announcer.close()


def estimates(announcer: Announcer, *times: float) -> None:
    for when in times:
        announcer.estimate(replace(ESTIMATE, time=when))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread will do."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_health_is_told_before_the_first_estimate() -> None:
    """Whoever reads an estimate may ask a health probe next."""
    notes = Notes()
    announcer = Announcer([notes], lambda: WELL, 1e6)
    estimates(announcer, 1.0)
    announcer.start()
    announcer.wait()
    announcer.close()
    assert [x for x in notes.told if isinstance(x, (float, Health))][:2] == [WELL, 1.0]


def test_estimates_reach_all_in_order_and_health_comes_first_and_last() -> None:
    notes = [Notes(), Notes()]
    with announcing(*notes) as announcer:
        estimates(announcer, 1.0, 2.0, 3.0)
        announcer.wait()
        estimates(announcer, 4.0)
    for each in notes:
        assert each.told[0] == Status(0, 0, 0, 0)
        assert [x for x in each.told if isinstance(x, float)] == [1.0, 2.0, 3.0, 4.0]
        assert each.told.count(WELL) == 2
        assert each.told[-2:] == [WELL, "close"]


def test_of_counts_only_the_newest_is_told() -> None:
    notes, held = Notes(), threading.Event()

    class Hold(Listener):
        def estimate(self, estimate: Estimate) -> None:
            assert held.wait(60)

    with announcing(Hold(), notes) as announcer:
        estimates(announcer, 1.0)
        until(lambda: announcer._busy)
        for seen in range(1, 1001):
            announcer.frame(Status(seen, seen, 0, 0))
            announcer.progress(seen, 1000)
        held.set()
        until(lambda: (1000, 1000) in notes.told)
    statuses = [x for x in notes.told if isinstance(x, Status)]
    assert statuses == [Status(0, 0, 0, 0), Status(1000, 1000, 0, 0)]
    assert [x for x in notes.told if isinstance(x, tuple)] == [(1000, 1000)]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EdgewfError("the disk is full"), "the disk is full"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError("oops"), "Broken: ValueError: oops"),
    ],
)
def test_a_listener_that_fails_is_a_problem_until_it_succeeds(error: Exception, words: str) -> None:
    class Broken(Listener):
        error: Exception | None = None

        def estimate(self, estimate: Estimate) -> None:
            if self.error is not None:
                raise self.error

    broken, notes = Broken(), Notes()
    broken.error = error
    with announcing(broken, notes) as announcer:
        for when in (1.0, 2.0):
            estimates(announcer, when)
            announcer.wait()
        assert announcer.problems() == [words]
        broken.error = None
        estimates(announcer, 3.0)
        announcer.wait()
        assert announcer.problems() == []
    assert [x for x in notes.told if isinstance(x, float)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("tries_again", [True, False])
def test_who_tries_again_with_a_report_of_health_is_well_then(tries_again: bool) -> None:
    """As `JsonLines` does when the disk has room again, though no estimate comes for long."""

    class Full(Listener):
        def estimate(self, estimate: Estimate) -> None:
            raise OSError("disk full")

    class Patient(Full):
        def health(self, health: Health) -> None:
            reports.append(health)

    reports: list[Health] = []
    with announcing(Patient() if tries_again else Full(), every=0.05) as announcer:
        estimates(announcer, 1.0)
        announcer.wait()
        if tries_again:
            until(lambda: announcer.problems() == [])
            assert reports
        else:
            time.sleep(0.3)
            assert announcer.problems() == ["disk full"]


def test_a_reader_that_is_gone_is_no_problem_but_an_end() -> None:
    class Pipe(Listener):
        def estimate(self, estimate: Estimate) -> None:
            raise BrokenPipeError

    with announcing(Pipe()) as announcer:
        estimates(announcer, 1.0)
        announcer.wait()
        assert isinstance(announcer.pipe_error, BrokenPipeError)
        assert announcer.problems() == []


def test_a_slow_listener_is_named_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLOW_S", 0.05)
    problems: list[list[str]] = []

    class Slow(Listener):
        def estimate(self, estimate: Estimate) -> None:
            assert held.wait(60)
            time.sleep(0.1)

    held = threading.Event()
    announcer = Announcer([Slow()], lambda: problems.append(announcer.problems()) or WELL, 1e6)
    announcer.start()
    estimates(announcer, 1.0, 2.0)  # neither waits for the listener
    assert problems in ([], [[]])
    held.set()
    announcer.close()
    assert "Slow took 0 s" in problems[-1][0]


def test_closing_leaves_a_listener_behind_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLOW_S", 0.0)
    monkeypatch.setattr(module, "_LAST_WAIT_S", 0.05)
    held = threading.Event()

    class Hang(Listener):
        def estimate(self, estimate: Estimate) -> None:
            held.wait(60)

    announcer = Announcer([Hang()], lambda: WELL, 1e6)
    announcer.start()
    estimates(announcer, 1.0)
    announcer.close()
    assert announcer._thread.is_alive()
    held.set()
    announcer._thread.join(60)


def test_listeners_are_closed_even_if_it_never_started() -> None:
    notes = Notes()
    Announcer([notes], lambda: WELL, 1e6).close()
    assert notes.told == ["close"]


def test_a_lock_that_an_interrupt_left_held_does_not_block_the_end() -> None:
    notes = Notes()
    announcer = Announcer([notes], lambda: WELL, 1e6)
    announcer.start()

    def interrupted() -> None:
        announcer._changed.acquire()
        announcer.estimate(ESTIMATE)
        announcer.close()

    ending = threading.Thread(target=interrupted, daemon=True)
    ending.start()
    ending.join(60)
    assert not ending.is_alive()
    assert notes.told[-1] == "close"
