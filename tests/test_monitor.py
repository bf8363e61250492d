"""The live loop over real folders of photographs, with brightness in place of a network."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.labels import Label
from edgewf.monitor import Listener, Status, monitor
from edgewf.preprocessing import Image, Preprocessing
from edgewf.stream import Source, WindowSampler, open_source
from edgewf.stream.frame import Frame

PREPROCESSING = Preprocessing(image_size=64, resize=64)
STEPS = 3
IMAGES = 20


def brightness(
    images: Image,
    labels: NDArray[np.int64] | None,
    *,
    source: str,
    time: float,
    progress: Callable[[int, int], None] | None,
) -> Estimate:
    """An estimate whose numbers can be checked by hand."""
    for step in range(STEPS):
        if progress is not None:
            progress(step + 1, STEPS)
    return Estimate(
        accuracy=float(images.mean()) / 2.55,
        interval=(0.0, 100.0),
        weighted_flips=0.0,
        flips=0.0,
        selected_share=1.0,
        frames=len(images),
        steps=STEPS,
        average_confidence=50.0,
        flags=(),
        model="brightness",
        time=time,
        source=source,
        engine="onnxruntime",
        estimator="combined",
        soft_agreement=0.875,
        certainty=0.5,
        true_accuracy=None if labels is None else 100.0 * float((labels == 0).mean()),
    )


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

    def __init__(self, source: Source, *, fails_after: int | None = None) -> None:
        self.uri, self.live, self.frames_total = source.uri, source.live, source.frames_total
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
def crops() -> list[Image]:
    data = pytest.importorskip("skimage.data", reason="scikit-image ships the photographs")
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    crops = []
    for number in range(IMAGES):
        photo = photos[number % 4]
        top, left = 30 * (number // 4), 60 * (number // 4)
        crops.append(np.ascontiguousarray(photo[top : top + 150, left : left + 150]))
    return crops


@pytest.fixture
def folder(tmp_path: Path, crops: list[Image]) -> Path:
    for number, crop in enumerate(crops):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
    return tmp_path


def test_each_full_window_is_estimated_once_and_in_order(folder: Path, crops: list[Image]) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()
    sampler = WindowSampler(8)
    summary = monitor(source, PREPROCESSING, sampler, brightness, listeners=[notes])

    assert (summary.windows, summary.seen, summary.kept, summary.leftover) == (2, IMAGES, IMAGES, 4)
    assert summary.dropped == 0
    assert not summary.interrupted
    for window, estimate in enumerate(notes.estimates):
        images = np.stack([PREPROCESSING(crop) for crop in crops[8 * window : 8 * window + 8]])
        assert estimate.accuracy == pytest.approx(images.mean() / 2.55)
        assert estimate.frames == 8
        assert estimate.source == str(folder)
        assert estimate.true_accuracy is None
    assert notes.estimates[0].time < notes.estimates[1].time
    assert notes.steps == 2 * [(step + 1, STEPS) for step in range(STEPS)]
    assert [status.seen for status in notes.statuses] == list(range(IMAGES + 1))
    assert [status.filled for status in notes.statuses] == [
        0,
        *range(1, 9),
        *range(1, 9),
        *range(1, 5),
    ]
    assert (source.closed, notes.closed) == (1, 1)


def test_near_duplicates_are_counted_and_not_estimated(folder: Path, crops: list[Image]) -> None:
    again = cv2.cvtColor(crops[0], cv2.COLOR_RGB2BGR)
    for number in range(5):
        cv2.imwrite(str(folder / f"000_{number}.png"), again)
    notes = Notes()
    sampler = WindowSampler(IMAGES)
    summary = monitor(
        open_source(str(folder)), PREPROCESSING, sampler, brightness, listeners=[notes]
    )
    assert (summary.windows, summary.seen, summary.kept, summary.dropped) == (1, 25, IMAGES, 5)
    whole = np.stack([PREPROCESSING(crop) for crop in crops])
    assert notes.estimates[0].accuracy == pytest.approx(whole.mean() / 2.55)


def test_labels_reach_the_estimate(folder: Path) -> None:
    for name, numbers in (("bright", range(0, 5)), ("dark", range(5, IMAGES))):
        (folder / name).mkdir()
        for number in numbers:
            (folder / f"{number:03}.png").rename(folder / name / f"{number:03}.png")
    source = open_source(str(folder), labels=[Label("bright"), Label("dark")])
    notes = Notes()
    monitor(source, PREPROCESSING, WindowSampler(IMAGES), brightness, listeners=[notes])
    assert [estimate.true_accuracy for estimate in notes.estimates] == [25.0]


def test_max_windows_ends_the_run_without_reading_on(folder: Path) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()
    summary = monitor(
        source, PREPROCESSING, WindowSampler(4), brightness, listeners=[notes], max_windows=2
    )
    assert (summary.windows, summary.seen, summary.leftover) == (2, 8, 0)
    assert len(notes.estimates) == 2
    assert source.read == 8
    assert not summary.interrupted
    assert (source.closed, notes.closed) == (1, 1)


def test_no_window_at_all_is_an_error_with_counts(folder: Path) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()
    sampler = WindowSampler(IMAGES, stride=2)
    with pytest.raises(EdgewfError, match=r"20 frames seen, 0 dropped.*10 kept.*--stride"):
        monitor(source, PREPROCESSING, sampler, brightness, listeners=[notes])
    assert (source.closed, notes.closed) == (1, 1)


def test_max_windows_must_be_positive(folder: Path) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()
    with pytest.raises(EdgewfError, match="0 windows"):
        monitor(
            source, PREPROCESSING, WindowSampler(4), brightness, listeners=[notes], max_windows=0
        )
    assert (source.read, source.closed, notes.closed) == (0, 1, 1)


@pytest.mark.parametrize("windows_before", [0, 1])
def test_ctrl_c_in_a_burst_ends_the_run_cleanly(folder: Path, windows_before: int) -> None:
    source, notes = Watched(open_source(str(folder))), Notes()

    class CtrlC(Listener):
        def progress(self, step: int, steps: int) -> None:
            if len(notes.estimates) == windows_before:
                signal.raise_signal(signal.SIGINT)

    summary = monitor(
        source, PREPROCESSING, WindowSampler(4), brightness, listeners=[notes, CtrlC()]
    )
    assert summary.interrupted
    assert summary.windows == len(notes.estimates) == windows_before
    assert summary.seen == 4 * (windows_before + 1)
    assert (source.closed, notes.closed) == (1, 1)


def test_stop_finishes_the_burst_and_ends_at_the_next_frame(folder: Path) -> None:
    source, notes, stop = Watched(open_source(str(folder))), Notes(), threading.Event()

    class Stopping(Listener):
        def progress(self, step: int, steps: int) -> None:
            stop.set()

    summary = monitor(
        source,
        PREPROCESSING,
        WindowSampler(4),
        brightness,
        listeners=[notes, Stopping()],
        stop=stop,
    )
    assert summary.interrupted
    assert (summary.windows, summary.seen, len(notes.estimates)) == (1, 4, 1)
    assert (source.closed, notes.closed) == (1, 1)


def test_a_failing_source_closes_everything_and_keeps_its_error(folder: Path) -> None:
    source, notes = Watched(open_source(str(folder)), fails_after=6), Notes()
    with pytest.raises(EdgewfError, match="the camera failed"):
        monitor(source, PREPROCESSING, WindowSampler(4), brightness, listeners=[notes])
    assert len(notes.estimates) == 1
    assert (source.closed, notes.closed) == (1, 1)


def test_a_listener_that_fails_to_close_leaves_no_other_open(folder: Path) -> None:
    source, first, last = Watched(open_source(str(folder))), Notes(), Notes()

    class Broken(Listener):
        def close(self) -> None:
            raise EdgewfError("the disk is full")

    with pytest.raises(EdgewfError, match="disk is full"):
        monitor(
            source,
            PREPROCESSING,
            WindowSampler(4),
            brightness,
            listeners=[first, Broken(), last],
        )
    assert (source.closed, first.closed, last.closed) == (1, 1, 1)
