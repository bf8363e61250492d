"""A monitor over real folders of photographs, until they end."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewf.bundle import Bundle
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.estimation import Estimator
from edgewf.listener import Listener, Status
from edgewf.monitor import Monitor
from edgewf.stream import Source, WindowSampler, open_source
from edgewf.stream.frame import Frame
from edgewf.watch import watch
from tests.tiny import CLASSES, export_tiny, tiny_settings, write_class_folders

IMAGES = 60
SETTINGS = tiny_settings(window=24, batch_size=8, steps=2)
CALLS = 2 * 3 + 2  # of an engine in one burst: labels before and after in three batches, steps


class Notes(Listener):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.statuses: list[Status] = []
        self.steps: list[tuple[int, int]] = []
        self.estimates: list[Estimate] = []
        self.closed = 0

    def frame(self, status: Status) -> None:
        self.statuses.append(status)

    def progress(self, step: int, steps: int) -> None:
        self.steps.append((step, steps))

    def estimate(self, estimate: Estimate) -> None:
        self.estimates.append(estimate)

    def close(self) -> None:
        self.closed += 1


class Watched(Source):
    """Another source that also counts how often it was closed and may fail on the way."""

    def __init__(
        self, source: Source, *, live: bool | None = None, fails_after: int | None = None
    ) -> None:
        self.uri, self.frames_total = source.uri, source.frames_total
        self.live = source.live if live is None else live
        self._source = source
        self._fails_after = fails_after
        self.closed = 0
        self.read = 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._source:
            if self.read == self._fails_after:
                raise EdgewfError(f"{self.uri}: the camera failed")
            self.read += 1
            yield frame

    def close(self) -> None:
        self.closed += 1
        self._source.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("watch"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten crops of each of six photographs, in an order that mixes them."""
    folder = tmp_path_factory.mktemp("photographs")
    classes = write_class_folders(folder / "classes", count=IMAGES // len(CLASSES), seed=2)
    order = np.random.default_rng(0).permutation(IMAGES)
    mixed = folder / "mixed"
    mixed.mkdir()
    for number, path in zip(order, sorted(classes.glob("*/*.png")), strict=True):
        shutil.copy(path, mixed / f"{number:03}.png")
    return mixed


@pytest.fixture
def make(bundle: Bundle) -> Callable[..., Monitor]:
    def make(*listeners: Listener, **options: Any) -> Monitor:
        chosen = {"settings": SETTINGS, "engine": "onnxruntime", "threads": 1, "duty_cycle": 1}
        return Monitor(bundle, listeners=listeners, **{**chosen, **options})

    return make


def by_hand(bundle: Bundle, folder: Path) -> list[dict[str, Any]]:
    """Return the estimates of each window of a folder without a monitor."""
    engine = OnnxRuntimeCPU(bundle, threads=1)
    estimator = Estimator(bundle, engine, None, SETTINGS)
    sampler, records = WindowSampler(SETTINGS.window), []
    for frame in open_source(str(folder)):
        crop = bundle.manifest.preprocessing(frame.image)
        sampler.offer(crop, frame.label, int(engine.infer(crop[np.newaxis]).argmax()))
        if sampler.full:
            window = sampler.take().window()
            estimate = estimator(
                window.images, weights=window.weights, source=str(folder), time=0.0
            )
            records.append({**estimate.to_json(), "time": None})
    return records


def test_each_full_window_is_estimated_once_and_in_order(
    make: Callable[..., Monitor], bundle: Bundle, folder: Path
) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()
    summary = watch(make(notes, source=source.uri), source)
    assert (summary.windows, summary.seen, summary.kept, summary.leftover) == (2, 60, 60, 12)
    assert (summary.dropped, summary.failed, summary.interrupted) == (0, 0, False)
    records = [{**estimate.to_json(), "time": None} for estimate in notes.estimates]
    assert records == by_hand(bundle, folder)
    assert notes.estimates[0].time < notes.estimates[1].time
    assert notes.statuses[0] == Status(0, 0, 0, 0)
    assert notes.statuses[-1] == Status(seen=60, kept=60, dropped=0, filled=12)
    assert set(notes.steps) <= {(call + 1, CALLS) for call in range(CALLS)}
    assert (source.closed, notes.closed) == (1, 1)


def test_a_camera_is_not_kept_waiting(make: Callable[..., Monitor], folder: Path) -> None:
    """All frames go by while the first burst rests between two slices."""
    source, notes = Watched(open_source(str(folder)), live=True), Notes()
    monitor = make(notes, duty_cycle=1e-4)
    with pytest.raises(EdgewfError, match="ended before a window was full"):
        watch(monitor, source)
    assert (source.read, monitor.health().seen) == (IMAGES, IMAGES)
    assert notes.estimates == []


def test_near_duplicates_are_counted_and_not_estimated(
    make: Callable[..., Monitor], folder: Path, tmp_path: Path
) -> None:
    twice = shutil.copytree(folder, tmp_path / "twice")
    for number in range(5):
        shutil.copy(folder / "000.png", twice / f"000_{number}.png")
    summary = watch(make(), open_source(str(twice)), max_windows=1)
    assert (summary.windows, summary.seen, summary.kept, summary.dropped) == (1, 29, 24, 5)


def test_labels_reach_the_estimate(
    make: Callable[..., Monitor], folder: Path, bundle: Bundle
) -> None:
    source = open_source(str(folder.parent / "classes"), labels=bundle.labels)
    notes = Notes()
    watch(make(notes), source)
    for estimate in notes.estimates:
        assert estimate.true_accuracy is not None
        assert estimate.true_accuracy > 50


def test_stride_passes_frames_over(make: Callable[..., Monitor], folder: Path) -> None:
    summary = watch(make(), open_source(str(folder)), stride=2)
    assert (summary.windows, summary.seen, summary.kept, summary.leftover) == (1, 60, 30, 6)
    assert summary.dropped == 0


def test_max_windows_ends_the_run_without_reading_on(
    make: Callable[..., Monitor], folder: Path
) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()
    summary = watch(make(notes), source, max_windows=1)
    assert (summary.windows, summary.seen, summary.leftover) == (1, 24, 0)
    assert len(notes.estimates) == 1
    assert source.read == 24
    assert not summary.interrupted
    assert (source.closed, notes.closed) == (1, 1)


def test_no_window_at_all_is_an_error_with_counts(
    make: Callable[..., Monitor], folder: Path
) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()
    with pytest.raises(EdgewfError, match=r"60 frames seen, 0 dropped.*20 kept.*--stride"):
        watch(make(notes), source, stride=3)
    assert (source.closed, notes.closed) == (1, 1)


@pytest.mark.parametrize("options", [{"max_windows": 0}, {"stride": 0}])
def test_numbers_must_be_positive(
    make: Callable[..., Monitor], folder: Path, options: dict[str, int]
) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()
    with pytest.raises(EdgewfError, match="both must be 1 or greater"):
        watch(make(notes), source, **options)
    assert (source.read, source.closed, notes.closed) == (0, 1, 1)


@pytest.mark.parametrize("windows_before", [0, 1])
def test_ctrl_c_in_a_burst_ends_the_run_cleanly(
    make: Callable[..., Monitor], folder: Path, windows_before: int
) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()

    class CtrlC(Listener):
        sent = False

        def progress(self, step: int, steps: int) -> None:
            if not self.sent and len(notes.estimates) == windows_before:
                self.sent = True
                main = threading.main_thread().ident
                assert main is not None
                signal.pthread_kill(main, signal.SIGINT)

    # At this duty cycle a burst rests for long, so it is under way when the signal comes.
    summary = watch(make(notes, CtrlC(), duty_cycle=0.01), source)
    assert summary.interrupted
    assert summary.windows == len(notes.estimates) == windows_before
    assert summary.seen == 24 * (windows_before + 1)
    assert (source.closed, notes.closed) == (1, 1)


def test_a_failing_source_closes_everything_and_keeps_its_error(
    make: Callable[..., Monitor], folder: Path
) -> None:
    source, notes = Watched(open_source(str(folder)), fails_after=30), Notes()
    with pytest.raises(EdgewfError, match="the camera failed"):
        watch(make(notes), source)
    assert len(notes.estimates) == 1
    assert (source.closed, notes.closed) == (1, 1)


@pytest.mark.parametrize("what", ["estimate", "close"])
def test_a_listener_that_fails_ends_a_recording_and_leaves_no_other_open(
    make: Callable[..., Monitor], folder: Path, what: str
) -> None:
    source, first, last = Watched(open_source(str(folder))), Notes(), Notes()

    def fail(*_: object) -> None:
        raise EdgewfError("the disk is full")

    broken = Listener()
    setattr(broken, what, fail)
    with pytest.raises(EdgewfError, match="disk is full"):
        watch(make(first, broken, last), source)
    assert (source.closed, first.closed, last.closed) == (1, 1, 1)


def test_a_camera_outlives_a_listener_that_fails(
    make: Callable[..., Monitor], folder: Path
) -> None:
    class Full(Listener):
        def estimate(self, estimate: Estimate) -> None:
            raise EdgewfError("the disk is full")

    class Patient(Watched):
        """Waits before the last frame until the first window is told."""

        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                if frame.index == IMAGES - 1:
                    monitor.wait()
                yield frame

    notes = Notes()
    monitor = make(Full(), notes)
    source = Patient(open_source(str(folder)), live=True)
    assert watch(monitor, source).windows == len(notes.estimates) >= 1
    assert "the disk is full" in monitor.health().problems
