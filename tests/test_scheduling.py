"""When bursts run: share of time, drift, temperature, failures."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.jetson import Board
from edgewf.scheduling import BurstThread, ConfidenceDrift, DutyCycle, Thermostat
from edgewf.scheduling.drift import REFERENCE
from edgewf.scheduling.duty import waited
from edgewf.stream import Window
from tests.boards import change, write_board
from tests.states import ESTIMATE

ZONE = "sys/class/thermal/thermal_zone0/temp"


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- duty cycle


@given(
    st.floats(0.01, 1),
    st.lists(st.tuples(st.floats(1e-3, 30), st.floats(0, 5)), min_size=1, max_size=50),
)
def test_who_rests_as_told_stays_below_the_share(
    share: float, pieces: list[tuple[float, float]]
) -> None:
    """Whatever the pieces take, and however late the next one starts."""
    clock = Clock()
    duty = DutyCycle(share, clock, Clock())  # this thread may well wait for a core meanwhile
    began = clock.now
    worked = 0.0
    for piece, idle in pieces:
        duty.begin()
        clock.now += piece
        worked += piece
        clock.now += duty.end() + idle
        assert worked <= share * (clock.now - began) * (1 + 1e-9)
    measured = duty.measured()
    assert measured is not None
    assert measured <= share * (1 + 1e-6)


def test_waiting_for_a_core_is_no_work() -> None:
    clock, lost = Clock(), Clock()
    duty = DutyCycle(0.1, clock, lost)
    for _ in range(3):
        duty.begin()
        clock.now += 10
        lost.now += 8
        assert duty.end() == pytest.approx(2 * 9)
        clock.now += 20
    assert duty.measured() == pytest.approx(6 / 90)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what a thread waited for")
def test_threads_that_share_a_core_wait_for_it() -> None:
    core = {min(os.sched_getaffinity(0))}
    found: list[tuple[float, float, float]] = []
    data = bytes(1 << 20)  # large enough for hashlib to let the other threads run

    def work() -> None:
        os.sched_setaffinity(threading.get_native_id(), core)
        began, before, used = time.monotonic(), waited(), time.thread_time()
        while time.thread_time() - used < 0.3:
            hashlib.sha256(data)
        found.append((time.monotonic() - began, waited() - before, time.thread_time() - used))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not any(lost for _, lost, _ in found):
        pytest.skip("this kernel keeps no statistics of its scheduler")
    wall, lost, used = max(found)
    assert lost == pytest.approx(wall - used, rel=0.5)


def test_the_measured_share_is_that_of_the_last_ten_minutes() -> None:
    clock = Clock()
    duty = DutyCycle(0.5, clock)
    assert duty.measured() is None
    duty.begin()
    clock.now += 60
    assert duty.end() == pytest.approx(60)
    clock.now += 60
    assert duty.measured() == pytest.approx(0.5)
    clock.now += 480  # ten minutes since the start
    assert duty.measured() == pytest.approx(0.1)
    clock.now += 30  # half of the piece is too long ago
    assert duty.measured() == pytest.approx(0.05)
    clock.now += 600
    assert duty.measured() == 0


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(EdgewfError, match="above 0 and at most 1"):
        DutyCycle(share)


# --- drift of the confidence


def alarms(confidences: Any) -> list[int]:
    """Return at which frames the alarm goes."""
    drift = ConfidenceDrift()
    return [i for i, confidence in enumerate(confidences) if drift.update(float(confidence))]


@given(st.floats(0, 1))
def test_a_confidence_that_never_changes_raises_no_alarm(confidence: float) -> None:
    assert alarms([confidence] * 1000) == []


def test_false_alarms_are_rare() -> None:
    """In 200,000 frames the formula expects 0.2 at the true mean; that of a past of 200 frames
    is off by 0.07 standard deviations, which costs some more."""
    rng = np.random.default_rng(0)
    streams = rng.normal(0.7, 0.1, (100, 2000))
    assert sum(len(alarms(stream)) for stream in streams) <= 4


def test_false_alarms_are_rare_where_confidences_pile_up_at_one() -> None:
    rng = np.random.default_rng(0)
    streams = rng.beta(2, 0.5, (100, 2000))
    assert sum(len(alarms(stream)) for stream in streams) <= 10


@pytest.mark.parametrize("shift", [-0.1, 0.1])
def test_a_shift_of_one_standard_deviation_is_seen_soon(shift: float) -> None:
    rng = np.random.default_rng(1)
    delays = []
    for _ in range(50):
        before, after = rng.normal(0.6, 0.1, REFERENCE + 100), rng.normal(0.6 + shift, 0.1, 200)
        found = [i for i in alarms([*before, *after]) if i >= len(before)]
        delays.append(found[0] - len(before) if found else 200)
    assert np.mean(delays) < 40
    assert max(delays) < 150


def test_of_alarms_that_follow_each_other_the_first_counts() -> None:
    """A camera that pans: every 250 frames another scene, then one for long, then a change."""
    rng = np.random.default_rng(3)
    scenes = np.repeat(np.tile([0.9, 0.6, 0.8, 0.5], 4), 250)
    stream = rng.normal(np.concatenate([scenes, np.full(3000, 0.9), np.full(100, 0.6)]), 0.05)
    assert len(alarms(stream)) > 10
    drift = ConfidenceDrift(quiet=2000)
    counted = [i for i, confidence in enumerate(stream) if drift.update(float(confidence))]
    assert len(counted) == 2
    assert counted[0] < 500
    assert 7000 <= counted[1] < 7050


def test_after_an_alarm_the_new_level_is_the_past() -> None:
    rng = np.random.default_rng(2)
    levels = np.concatenate([rng.normal(0.8, 0.05, 400), rng.normal(0.5, 0.05, 1000)])
    assert len(alarms(levels)) == 1


def test_what_is_no_number_is_passed_over() -> None:
    assert alarms([0.5] * REFERENCE + [math.nan] * 100) == []


# --- temperature


def at(root: Path, degrees: float) -> None:
    change(root, ZONE, str(round(1000 * degrees)))


def test_bursts_wait_from_the_limit_until_three_degrees_below(tmp_path: Path) -> None:
    clock, root = Clock(), write_board("xavier", tmp_path)
    thermostat = Thermostat(Board(root), 70.0, clock)
    said = []
    for degrees in (69.9, 70.0, 67.5, 67.0, 66.9, 69.9):
        at(root, degrees)
        clock.now += 2
        said.append(thermostat.hot())
        assert bool(thermostat.problems()) == said[-1]
    assert said == [False, True, True, True, False, False]


def test_without_a_limit_it_is_five_degrees_below_throttling(tmp_path: Path) -> None:
    assert Thermostat(Board(write_board("xavier", tmp_path)), None).limit == 81.0
    assert Thermostat(Board(tmp_path / "none"), None).limit is None


def test_the_board_is_read_every_two_seconds_at_most(tmp_path: Path) -> None:
    clock, root = Clock(), write_board("xavier", tmp_path)
    thermostat = Thermostat(Board(root), 70.0, clock)
    at(root, 90)
    clock.now += 1.9
    assert not thermostat.hot()
    clock.now += 0.1
    assert thermostat.hot()


def test_bursts_wait_while_the_device_is_throttled(tmp_path: Path) -> None:
    clock, root = Clock(), write_board("xavier", tmp_path)
    thermostat = Thermostat(Board(root), None, clock)
    change(root, "sys/class/thermal/cooling_device1/cur_state", "2")
    clock.now += 2
    assert thermostat.hot()
    assert "throttled" in thermostat.problems()[0]


# --- the thread of the bursts


class Job:
    """Makes estimates as a test wants them.

    Args:
        slices: calls of `progress`.
        error: raised by all that are made while it is set.
    """

    def __init__(self, slices: int = 3, error: Exception | None = None) -> None:
        self.slices = slices
        self.error = error
        self.begun: list[float] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(
        self,
        images: Any,
        labels: Any,
        weights: Any,
        *,
        source: str,
        time: float,
        progress: Callable[[int, int], None] | None,
    ) -> Estimate:
        assert progress is not None
        self.begun.append(time)
        for number in range(self.slices):
            progress(number + 1, self.slices)
            assert self.may_go_on.wait(60)
        if self.error is not None:
            raise self.error
        return replace(ESTIMATE, time=time)


@contextmanager
def bursts(
    job: Callable[..., Estimate] | None = None,
    told: list[Estimate] | None = None,
    *,
    load: Callable[[], Any] | None = None,
    root: Path = Path("/nowhere"),
    limit: float | None = None,
    duty: float = 1.0,
    every: float = 0.0,
    cancel: Callable[[], None] = lambda: None,
) -> Iterator[BurstThread]:
    thread = BurstThread(
        load or (lambda: job),
        on_estimate=([] if told is None else told).append,
        on_progress=lambda step, steps: None,
        cancel=cancel,
        duty=DutyCycle(duty),
        every=every,
        thermostat=Thermostat(Board(root), limit),
    )
    thread.start()
    try:
        yield thread
    finally:
        thread.close()


def window() -> Window:
    return Window(np.zeros((1, 2, 2, 3), np.uint8), None)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread will do."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_the_newest_window_waits_while_a_burst_runs() -> None:
    job, told = Job(), list[Estimate]()
    job.may_go_on.clear()
    with bursts(job, told) as thread:
        thread.hand_over(window, "test", 1.0)
        until(lambda: job.begun == [1.0])
        for number in (2.0, 3.0, 4.0):
            thread.hand_over(window, "test", number)
        assert thread.report().done == 0
        job.may_go_on.set()
        thread.wait()
        assert [estimate.time for estimate in told] == [1.0, 4.0]
        assert (thread.report().done, thread.report().failed) == (2, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no priority of a thread")
def test_a_burst_gives_way_to_everything_and_so_do_the_threads_it_starts() -> None:
    policies: list[int] = []
    worker: list[int] = []
    done = threading.Event()

    def note() -> None:
        policies.append(os.sched_getscheduler(threading.get_native_id()))

    def work() -> None:
        worker.append(threading.get_native_id())
        done.wait()

    def load() -> Callable[..., Estimate]:
        note()  # somebody waits for this
        threading.Thread(target=work).start()
        until(lambda: bool(worker))
        return job

    def job(*_: Any, time: float, **__: Any) -> Estimate:
        note()
        child = threading.Thread(target=note)
        child.start()
        child.join()
        return replace(ESTIMATE, time=time)

    other = threading.Thread(target=done.wait)
    other.start()
    with bursts(load=load) as thread:
        thread.hand_over(window, "test", 1.0)
        thread.wait()
        assert os.sched_getscheduler(worker[0]) == os.SCHED_IDLE
        assert other.native_id is not None
        assert os.sched_getscheduler(other.native_id) == os.SCHED_OTHER
        done.set()
    assert policies == [os.SCHED_OTHER, os.SCHED_IDLE, os.SCHED_IDLE]
    assert os.sched_getscheduler(threading.get_native_id()) != os.SCHED_IDLE


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EdgewfError("logits are not finite"), "logits are not finite"),
        (MemoryError(), "not enough memory for a burst: close other programs"),
        (RuntimeError("kernel lost"), "RuntimeError: kernel lost"),
    ],
)
def test_a_failure_is_reported_until_a_burst_succeeds(error: Exception, words: str) -> None:
    job, told = Job(error=error), list[Estimate]()
    with bursts(job, told) as thread:
        thread.hand_over(window, "test", 1.0)
        thread.wait()
        report = thread.report()
        assert (report.failed, report.failed_in_a_row, report.failure) == (1, 1, words)
        thread.hand_over(window, "test", 2.0)
        time.sleep(0.1)
        assert job.begun == [1.0]  # the next one waits for five seconds
        thread._due, job.error = 0.0, None  # they are over
        thread.hand_over(window, "test", 3.0)
        thread.wait()
        report = thread.report()
        assert (report.failed, report.failed_in_a_row, report.failure) == (1, 0, None)
    assert [estimate.time for estimate in told] == [3.0]


def test_pauses_between_bursts_and_after_failures_end_when_it_closes() -> None:
    for job, options in ((Job(error=EdgewfError("no")), {}), (Job(), {"every": 1e6})):
        with bursts(job, **options) as thread:  # type: ignore[arg-type]
            for number in (1.0, 2.0):
                thread.hand_over(window, "test", number)
                until(lambda thread=thread: bool(thread.report().done + thread.report().failed))
        assert job.begun == [1.0]


def test_hurry_ends_the_pause_but_drops_what_was_collected_before() -> None:
    job, told = Job(), list[Estimate]()
    with bursts(job, told, every=1e6) as thread:
        thread.hand_over(window, "test", 1.0)
        thread.wait()
        thread.hand_over(window, "test", 2.0)
        thread.hurry()
        thread.hand_over(window, "test", 3.0)
        thread.wait()
    assert [estimate.time for estimate in told] == [1.0, 3.0]


def test_a_hot_device_holds_a_burst_between_two_slices(tmp_path: Path) -> None:
    root = write_board("xavier", tmp_path)
    job, told = Job(), list[Estimate]()
    with bursts(job, told, root=root, limit=70.0) as thread:
        at(root, 90)
        until(lambda: thread._thermostat.hot())
        thread.hand_over(window, "test", 1.0)
        time.sleep(0.1)
        assert job.begun == []
        at(root, 40)
        thread.wait()
    assert len(told) == 1


def test_closing_wakes_a_burst_that_waits_for_the_device_to_cool(tmp_path: Path) -> None:
    root = write_board("xavier", tmp_path)
    at(root, 90)
    job = Job()
    with bursts(job, root=root, limit=70.0) as thread:
        thread.hand_over(window, "test", 1.0)
    assert job.begun == []


def test_a_lock_that_an_interrupt_left_held_does_not_block_the_end() -> None:
    job = Job()
    job.may_go_on.clear()
    with bursts(job) as thread:
        thread.hand_over(window, "test", 1.0)

        def interrupted() -> None:
            """As KeyboardInterrupt leaves it between taking the lock and the block."""
            thread._changed.acquire()
            job.may_go_on.set()
            thread.close()

        ending = threading.Thread(target=interrupted, daemon=True)
        ending.start()
        ending.join(60)
        assert not ending.is_alive()


def test_closing_does_not_wait_for_a_slice_that_can_be_cancelled() -> None:
    """Where others have the cores, a slice of a second would end in minutes."""
    begun, cancelled = threading.Event(), threading.Event()

    def slice_without_end(*_: Any, **__: Any) -> Estimate:
        begun.set()
        cancelled.wait()
        raise RuntimeError("exiting, as told")

    with bursts(slice_without_end, cancel=cancelled.set) as thread:
        thread.hand_over(window, "test", 1.0)
        assert begun.wait(60)
    report = thread.report()
    assert (report.done, report.failed, report.running) == (0, 0, None)


def test_what_load_raises_reaches_the_caller() -> None:
    def load() -> Any:
        raise EdgewfError("no such engine")

    thread = BurstThread(
        load,
        on_estimate=lambda _: None,
        on_progress=lambda _, __: None,
        cancel=lambda: None,
        duty=DutyCycle(1.0),
        every=0.0,
        thermostat=Thermostat(Board(Path("/nowhere")), None),
    )
    with pytest.raises(EdgewfError, match="no such engine"):
        thread.start()
    thread.close()
