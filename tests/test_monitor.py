"""The monitor inside an application: predictions at once, bursts behind them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewf import monitor as module
from edgewf.bundle import Bundle
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.listener import Listener
from edgewf.monitor import Monitor
from edgewf.preprocessing import Image
from edgewf.stream.sampler import Taken, Window
from tests.tiny import CLASSES, constant_calibration, crops, export_tiny, tiny_settings

SETTINGS = tiny_settings()
ONE_THREAD: dict[str, Any] = {"settings": SETTINGS, "engine": "onnxruntime", "threads": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose estimates are always 50 %."""
    bundle = export_tiny(tmp_path_factory.mktemp("monitor"))
    constant_calibration(bundle, SETTINGS).write(bundle.folder)
    return bundle


@pytest.fixture(scope="module")
def frames() -> list[Image]:
    """Sixty photographs in mixed order, uint8 [32, 32, 3]."""
    images, _ = crops(10, seed=3)
    return list(images[np.random.default_rng(0).permutation(len(images))])


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread will do."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_three_lines_embed_it(bundle: Bundle, frames: list[Image]) -> None:
    with Monitor(bundle.folder, engine="onnxruntime", threads=1) as monitor:
        engine = OnnxRuntimeCPU(bundle, threads=1)
        for frame in frames[: SETTINGS.window]:
            prediction = monitor.observe(frame)
            logits = engine.infer(bundle.manifest.preprocessing(frame)[np.newaxis])[0]
            assert prediction.label == logits.argmax()
            assert prediction.name == CLASSES[prediction.label]
            exponentials = np.exp(logits.astype(np.float64) - logits.max())
            assert prediction.confidence == pytest.approx(1 / exponentials.sum(), rel=1e-5)
        monitor.wait()
        assert monitor.latest is not None
        assert monitor.latest.accuracy == pytest.approx(50.0)
        assert monitor.latest.source == "application"
        assert monitor.estimates == 1


@pytest.mark.parametrize("asked", ["observe", "offer"])
def test_windows_of_a_stream_in_order_of_class_are_balanced(bundle: Bundle, asked: str) -> None:
    """With a past of one window, which leaves the balance out, they are of one class or two."""
    images, labels = crops(20, seed=3)

    def classes_of_last(past: int) -> int:
        windows = []
        with Monitor(bundle, **ONE_THREAD, past=past, duty_cycle=1) as monitor:
            made = monitor._window_of

            def note(taken: Taken) -> Window:
                windows.append(made(taken))
                return windows[-1]

            monitor._window_of = note  # type: ignore[method-assign]
            for frame, label in zip(images, labels, strict=True):
                getattr(monitor, asked)(frame, truth=int(label))
                monitor.wait()
        assert len(windows) == len(images) // SETTINGS.window
        assert windows[-1].labels is not None
        return len(np.unique(windows[-1].labels))

    assert classes_of_last(past=1) <= 2
    assert classes_of_last(past=8) >= 5


def test_a_burst_neither_holds_up_nor_changes_predictions(
    bundle: Bundle, frames: list[Image]
) -> None:
    """While the burst rests for minutes, the same frames get the same answers."""
    reached = threading.Event()

    class Reach(Listener):
        def progress(self, step: int, steps: int) -> None:
            reached.set()

    with Monitor(bundle, **ONE_THREAD, duty_cycle=1e-4, listeners=[Reach()]) as monitor:
        before = [monitor.observe(frame) for frame in frames]
        assert reached.wait(60)
        during = [monitor.observe(frame) for frame in frames]
        assert (monitor.latest, monitor.status.seen) == (None, 2 * len(frames))
    assert before == during


def test_closing_ends_the_burst_under_way_and_every_thread(
    bundle: Bundle, frames: list[Image]
) -> None:
    running = set(threading.enumerate())
    told: list[Estimate] = []
    reached = threading.Event()

    class Tell(Listener):
        def progress(self, step: int, steps: int) -> None:
            reached.set()

        def estimate(self, estimate: Estimate) -> None:
            told.append(estimate)

    monitor = Monitor(bundle, **ONE_THREAD, duty_cycle=1e-6, listeners=[Tell()])
    for frame in frames[: SETTINGS.window]:
        monitor.observe(frame)
    assert reached.wait(60)
    monitor.close()  # at this duty cycle the burst would go on for hours
    monitor.close()
    assert told == []
    assert set(threading.enumerate()) == running


def test_frames_from_many_threads_are_all_counted(bundle: Bundle, frames: list[Image]) -> None:
    with Monitor(bundle, **ONE_THREAD, duty_cycle=0.5) as monitor:
        answers: list[list[int]] = []
        threads = [
            threading.Thread(
                target=lambda: answers.append([monitor.observe(frame).label for frame in frames])
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert monitor.status.seen == 4 * len(frames)
        assert answers == 4 * [answers[0]]


def test_predictions_of_the_application_are_enough(bundle: Bundle, frames: list[Image]) -> None:
    with Monitor(bundle, **ONE_THREAD, duty_cycle=1, inference=False) as monitor:
        for frame in frames[: SETTINGS.window]:
            monitor.offer(frame, label=0, confidence=0.9, truth=0)
        monitor.wait()
        assert monitor.latest is not None
        assert monitor.latest.true_accuracy is not None
        with pytest.raises(EdgewfError, match=r"observe\(\) needs Monitor\(inference=True\)"):
            monitor.observe(frames[0])


@pytest.mark.parametrize("scenes", [False, True])
def test_a_drift_of_the_confidence_starts_a_burst_early(
    bundle: Bundle, frames: list[Image], scenes: bool
) -> None:
    """With an hour between bursts, the second one can only come from the drift.

    Where one class comes after the other it does not come: a scene may be the cause.
    """
    rng = np.random.default_rng(0)

    def different(frame: Image) -> Image:
        noise = rng.integers(-60, 60, frame.shape)
        return np.clip(frame.astype(int) + noise, 0, 255).astype(np.uint8)

    with Monitor(bundle, **ONE_THREAD, duty_cycle=1, every=3600, inference=False) as monitor:
        confidences = iter(rng.normal(0.9, 0.03, 10_000))

        def feed(count: int, fall: float) -> None:
            for number in range(count):
                label = monitor.status.kept // SETTINGS.window if scenes else 0
                frame = different(frames[number % len(frames)])
                monitor.offer(frame, label=label, confidence=next(confidences) - fall)

        feed(SETTINGS.window, 0)
        monitor.wait()
        assert monitor.estimates == 1
        feed(300, 0)
        assert monitor.estimates == 1
        before = monitor.status.filled
        feed(60, 0.2)
        if scenes:
            assert monitor.status.filled == (before + 60) % SETTINGS.window
            assert monitor.estimates == 1
        else:
            until(lambda: monitor.estimates == 2)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((32, 32, 3), np.float32),
        np.zeros((32, 32), np.uint8),
        np.zeros((3, 32, 32), np.uint8),
        "frame.png",
    ],
)
def test_what_is_no_frame_is_refused(bundle: Bundle, frame: Image) -> None:
    with (
        Monitor(bundle, **ONE_THREAD) as monitor,
        pytest.raises(EdgewfError, match=r"a frame is uint8 \[H, W, 3\] RGB, not"),
    ):
        monitor.observe(frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duty_cycle": 0.0}, "duty cycle of 0"),
        ({"duty_cycle": 1.5}, "duty cycle of 1.5"),
        ({"every": -1.0}, "every -1 seconds"),
        ({"engine": "abacus"}, "abacus"),
        ({"settings": tiny_settings(steps=3)}, "steps"),
    ],
)
def test_bad_arguments_are_refused_and_leave_no_thread(
    bundle: Bundle, options: dict[str, Any], message: str
) -> None:
    running = set(threading.enumerate())
    closed: list[bool] = []

    class Closing(Listener):
        def close(self) -> None:
            closed.append(True)

    arguments = {**ONE_THREAD, "listeners": [Closing()], **options}
    with pytest.raises(EdgewfError, match=message):
        Monitor(bundle, **arguments)
    assert closed == [True]
    until(lambda: set(threading.enumerate()) == running)


def test_health_counts_frames_and_bursts(bundle: Bundle, frames: list[Image]) -> None:
    told: list[Health] = []

    class Tell(Listener):
        def health(self, health: Health) -> None:
            told.append(health)

    with Monitor(bundle, **ONE_THREAD, duty_cycle=1, listeners=[Tell()]) as monitor:
        assert monitor.health().source.state == "starting"
        for frame in frames[: SETTINGS.window + 4]:
            monitor.observe(frame)
        monitor.observe(frames[SETTINGS.window + 3])
        monitor.wait()
        health = monitor.health()
    assert (health.seen, health.kept, health.dropped, health.filled) == (21, 20, 1, 4)
    assert (health.bursts, health.burst_failures) == (1, 0)
    assert (health.source.state, health.source.frames) == ("live", 21)
    assert health.last_burst_seconds is not None
    assert health.duty is not None
    assert 0 < health.duty <= 1
    assert health.memory_bytes > 10_000_000
    assert health.problems == ()
    assert told[-1].bursts == 1  # the last word comes at the end


def test_frames_are_not_missed_while_the_application_waits_for_a_burst(
    bundle: Bundle, frames: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording is read no further while its burst runs."""
    monkeypatch.setattr(module, "STALLED_S", 0.0)  # every silence is one
    states: list[str] = []

    class Tell(Listener):
        def estimate(self, estimate: Estimate) -> None:
            states.append(monitor.health().source.state)

    with Monitor(bundle, **ONE_THREAD, duty_cycle=1, listeners=[Tell()]) as monitor:
        for frame in frames:
            monitor.observe(frame)
            monitor.wait()
        assert monitor.health().source.state == "stalled"
    assert states
    assert set(states) == {"live"}


def test_a_burst_that_takes_very_long_is_a_problem(
    bundle: Bundle, frames: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Monitor(bundle, **ONE_THREAD, duty_cycle=1e-6) as monitor:
        for frame in frames[: SETTINGS.window]:
            monitor.observe(frame)
        until(lambda: monitor.health().duty is not None)  # its first slice is over
        assert monitor.health().problems == ()
        monkeypatch.setattr(module, "LONG_S", 0.0)
        assert "a burst has taken 0 minutes so far" in monitor.health().problems[0]


SCRIPT = """
import sys
import numpy as np
from edgewf.monitor import Monitor

monitor = Monitor(sys.argv[1], threads=1, duty_cycle=1e-6)
rng = np.random.default_rng(0)
for _ in range(40):
    monitor.observe(rng.integers(0, 256, (32, 32, 3), np.uint8))
print("done")
"""


def test_a_program_that_forgets_to_close_it_still_ends(bundle: Bundle, tmp_path: Path) -> None:
    script = tmp_path / "application.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(bundle.folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
