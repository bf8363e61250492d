"""The monitor inside an application: deployed predictions at once, estimates now and then.

    monitor = Monitor("bundles/efficientnet_lite0")
    prediction = monitor.observe(frame)    # for every frame, uint8 [H, W, 3] RGB
    monitor.latest                         # the newest estimate of the accuracy, or None

`edgewf.watch` runs it over a camera or a file.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np

from edgewf.announcer import Announcer
from edgewf.bundle import Bundle
from edgewf.calibration import Calibration
from edgewf.doubtful import DoubtfulFrame
from edgewf.engines import Role
from edgewf.engines.select import AUTO, select_engine
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.estimation import Estimator
from edgewf.estimators import DEFAULT
from edgewf.health import Health, resident_bytes, source_problems
from edgewf.jetson import Board
from edgewf.kernels import reference
from edgewf.listener import Listener, Status
from edgewf.preprocessing import Image
from edgewf.scheduling import BurstThread, ConfidenceDrift, DutyCycle, Thermostat
from edgewf.settings import BurstSettings
from edgewf.stream import Window, WindowSampler
from edgewf.stream.health import SourceHealth
from edgewf.stream.sampler import PAST, Taken

__all__ = ["Listener", "Monitor", "Prediction", "Status"]

DUTY_CYCLE = 0.1
HEALTH_S = 5.0
STALLED_S = 5.0
CURRENT_S = 0.5  # between two frames that are kept to be looked at
LONG_S = 1800.0  # that a burst may take


@dataclass(frozen=True)
class Prediction:
    """What the deployed network says of one frame.

    Attributes:
        label: class index.
        name: of the class; the index as text where the bundle has no names.
        confidence: probability of the class, 0 to 1.
    """

    label: int
    name: str
    confidence: float


class Monitor:
    """Watches a classifier on the frames that it is given.

    `observe` and `offer` may be called from any thread and never wait for a burst: those run in a
    thread of the lowest priority with an engine of their own, in slices, under a duty cycle, and
    not while the device is hot. What goes wrong in them is in the health that listeners are told
    of; the application goes on.

    Close it, or use it as a context manager; at exit of the interpreter it closes itself.

    Args:
        bundle: an exported model, or the folder it is in.
        settings: of the bursts; None for those of the calibration, else of the bundle.
        estimator: see `edgewf.estimators.known`.
        engine: one of those that `edgewf doctor` lists, or "auto".
        threads: that an operator may use on the CPU; None leaves it to the runtime, or for
            bursts to what deployed inference does not notice.
        inference: False saves the memory of the deployed network where `observe` is not used,
            because the application has predictions of its own to `offer`.
        listeners: told of estimates and health, in this order.
        source: name of the frames' origin in the estimates.
        past: windows from which a window may take frames where the newest show few classes, see
            `edgewf.stream.WindowSampler`; with 1 none does.
        source_health: asks the source how it is doing; None, or one that answers None, leaves
            that to be judged by the frames that come.
        duty_cycle: share of the time that bursts may take, above 0 and up to 1; with 1 they do
            not keep out of the way of predictions.
        every: seconds from the start of one burst to that of the next, at least. A drift of the
            confidence starts one earlier.
        max_temperature: degrees Celsius at which bursts wait; None for 5 below the point at
            which the kernel slows the device down.

    Attributes:
        engine: which engine runs, and why.
        latest: the newest estimate; None before the first.
        picture: the last frame of its window as the model saw it, uint8 [S, S, 3] RGB.
        doubtful: the frames of its window that are the least to be trusted, the worst first.
        current: a frame of the last half second, or else the last, as the model sees it; None
            before the first.

    Raises:
        EdgewfError: a damaged bundle, a calibration that does not fit, an engine that cannot run
            here, or an argument out of range.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        settings: BurstSettings | None = None,
        estimator: str = DEFAULT,
        engine: str = AUTO,
        threads: int | None = None,
        inference: bool = True,
        listeners: Sequence[Listener] = (),
        source: str = "application",
        past: int = PAST,
        source_health: Callable[[], SourceHealth | None] = lambda: None,
        duty_cycle: float = DUTY_CYCLE,
        every: float = 0.0,
        max_temperature: float | None = None,
    ) -> None:
        self.latest: Estimate | None = None
        self.picture: Image | None = None
        self.doubtful: tuple[DoubtfulFrame, ...] = ()
        self.current: Image | None = None
        self._next_current = 0.0
        self._last_of_window: Image | None = None
        self._bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        self._names = [label.name for label in self._bundle.labels]
        self._source = source
        self._ask_source = source_health
        calibration = Calibration.of(self._bundle)
        if settings is None:
            settings = self._bundle.manifest.burst if calibration is None else calibration.settings
        self._sampler = WindowSampler(settings.window, past=past, seed=settings.seed)
        self._drift = ConfidenceDrift(quiet=past * settings.window)
        self._seen = self._kept = 0
        self._last_frame: float | None = None
        self._waiting = False
        self._offering = threading.Lock()
        self._inferring = threading.Lock()
        self._thermostat = Thermostat(Board(), max_temperature)
        self._announcer = Announcer(listeners, self.health, HEALTH_S)
        # Whoever gives bursts all of the time does not look for quick predictions meanwhile.
        beside = inference and duty_cycle < 1

        def load() -> Estimator:
            role = Role.BURSTS if beside else Role.ALONE
            selection = select_engine(engine, self._bundle, threads, role)
            selection.engine.reset(settings)  # now, because compiling would hold frames up
            self.engine = str(selection)
            self._estimator = Estimator(
                self._bundle, selection.engine, calibration, settings, estimator
            )
            return self._estimator

        try:
            self._bursts = BurstThread(
                load,
                on_estimate=self._on_estimate,
                on_progress=self._announcer.progress,
                cancel=lambda: self._estimator.engine.cancel(),
                duty=DutyCycle(duty_cycle),
                every=every,
                thermostat=self._thermostat,
            )
            self._deployed = None
            if inference:
                role = Role.INFERENCE if beside else Role.ALONE
                self._deployed = select_engine(engine, self._bundle, threads, role).engine
                size = self._bundle.manifest.preprocessing.image_size
                self._deployed.infer(np.zeros((1, size, size, 3), np.uint8))  # compiles the graph
            self._bursts.start()
        except BaseException:
            self._announcer.close()
            raise
        self._announcer.start()
        self._closed = False
        atexit.register(self.close)

    def observe(
        self, frame: Image, *, when: float | None = None, truth: int | None = None
    ) -> Prediction:
        """Return the deployed network's prediction, and take the frame into account.

        Args:
            frame: uint8 [H, W, 3] RGB of any size. OpenCV's are BGR: `frame[..., ::-1]`.
            when: seconds since the epoch, UTC; None for now.
            truth: class index where it is known, for the true accuracy of a window.

        Raises:
            EdgewfError: something else than such a frame, or no deployed network was asked for.
        """
        if self._deployed is None:
            raise EdgewfError(
                "observe() needs Monitor(inference=True); use offer() with your own predictions"
            )
        crop = self._crop(frame)
        label, confidence = self._infer(crop)
        self._take(crop, label, confidence, when, truth)
        return Prediction(label, self._names[label], confidence)

    def offer(
        self,
        frame: Image,
        label: int | None = None,
        confidence: float | None = None,
        *,
        when: float | None = None,
        truth: int | None = None,
    ) -> None:
        """Take a frame into account whose prediction the application has, or nobody.

        Args:
            frame, when, truth: as in `observe`.
            label, confidence: class index that the deployed network gave, and its probability.
                Without a label the monitor's own deployed network is asked for it, if it has one;
                a confidence of None is no sign of a drift.
        """
        crop = self._crop(frame)
        if label is None and self._deployed is not None:
            label, _ = self._infer(crop)
        self._take(crop, label, confidence, when, truth)

    def wait(self) -> None:
        """Return when no burst runs or is due, and listeners have every estimate.

        Who waits here gives no frames meanwhile, so none are missed.
        """
        self._waiting = True
        try:
            self._bursts.wait()
            self._announcer.wait()
        finally:
            if self._last_frame is not None:
                self._last_frame = time.time()
            self._waiting = False

    @property
    def estimates(self) -> int:
        """Number of estimates made."""
        return self._bursts.report().done

    @property
    def status(self) -> Status:
        """How many frames went where."""
        return Status(self._seen, self._kept, self._seen - self._kept, self._sampler.filled)

    def health(self) -> Health:
        """Return how the monitor is doing now."""
        now = time.time()
        status, bursts = self.status, self._bursts.report()
        source, board = self._source_health(), self._thermostat.state
        problems = source_problems(source, now) + self._thermostat.problems()
        if bursts.failure is not None:
            times = "burst" if bursts.failed_in_a_row == 1 else f"{bursts.failed_in_a_row} bursts"
            problems.append(f"the last {times} failed: {bursts.failure}")
        if bursts.running is not None and bursts.running > LONG_S:
            problems.append(
                f"a burst has taken {bursts.running / 60:.0f} minutes so far: the machine is too "
                "busy or too hot for it, or the duty cycle is too small"
            )
        return Health(
            time=now,
            source=source,
            seen=status.seen,
            kept=status.kept,
            dropped=status.dropped,
            filled=status.filled,
            bursts=bursts.done,
            burst_failures=bursts.failed,
            last_burst_seconds=bursts.seconds,
            duty=bursts.duty,
            temperature=board.temperature,
            throttled=board.throttled,
            power_mode=board.power_mode,
            memory_bytes=resident_bytes(),
            problems=(*problems, *self._announcer.problems()),
        )

    def check(self) -> None:
        """Raise what a run over a recording must not pass over.

        Raises:
            EdgewfError: the last burst failed, or a listener did.
            BrokenPipeError: whoever read stdout is gone.
        """
        self.check_pipe()
        failure = self._bursts.report().failure
        for problem in [failure] if failure is not None else self._announcer.problems():
            raise EdgewfError(problem)

    def check_pipe(self) -> None:
        """Raise BrokenPipeError if whoever read what a listener writes is gone."""
        if self._announcer.pipe_error is not None:
            raise self._announcer.pipe_error

    def close(self) -> None:
        """End the burst under way, then tell and close the listeners."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._bursts.close()
        self._announcer.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _infer(self, crop: Image) -> tuple[int, float]:
        """Return the deployed network's class and its probability."""
        assert self._deployed is not None
        with self._inferring:
            logits = self._deployed.infer(crop[np.newaxis])
        probabilities, _, _ = reference.softmax_entropy(logits)
        return int(reference.labels(logits)[0]), float(probabilities.max())

    def _crop(self, frame: Image) -> Image:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,):
            shape = getattr(frame, "shape", None)
            found = f"{frame.dtype} {shape}" if shape is not None else type(frame).__name__
            raise EdgewfError(f"a frame is uint8 [H, W, 3] RGB, not {found}: convert it first")
        return self._bundle.manifest.preprocessing(frame)

    def _take(
        self,
        crop: Image,
        label: int | None,
        confidence: float | None,
        when: float | None,
        truth: int | None,
    ) -> None:
        now = time.time()
        with self._offering:
            self._seen += 1
            self._last_frame = now
            if time.monotonic() >= self._next_current:
                self._next_current = time.monotonic() + CURRENT_S
                self.current = crop.copy()  # the caller may use its memory again
            kept = self._sampler.offer(crop, truth, label)
            self._kept += kept
            drifted = kept and confidence is not None and self._drift.update(confidence)
            # Where windows have to be balanced, every scene has a confidence of its own.
            if drifted and not self._sampler.balanced:
                self._sampler.forget()  # the estimate is of frames after the drift
                self._bursts.hurry()
            if self._sampler.full:
                # Handed over as it is: making one array of it takes too long for this thread.
                end = now if when is None else when
                taken = self._sampler.take()
                self._bursts.hand_over(partial(self._window_of, taken), self._source, end)
            self._announcer.frame(self.status)

    def _window_of(self, taken: Taken) -> Window:
        """Called in the thread of the bursts, as is `_on_estimate`."""
        window = taken.window()
        self._last_of_window = window.images[-1].copy()  # a view would keep the whole window
        return window

    def _on_estimate(self, estimate: Estimate) -> None:
        self.latest, self.picture = estimate, self._last_of_window
        self.doubtful = self._estimator.doubtful
        self._announcer.estimate(estimate)

    def _source_health(self) -> SourceHealth:
        """Ask the source, or judge it by the frames that come."""
        answer = self._ask_source()
        if answer is not None:
            return answer
        silence = None if self._last_frame is None else time.time() - self._last_frame
        here = self._waiting or (silence is not None and silence < STALLED_S)
        state = "live" if here else "starting" if silence is None else "stalled"
        return SourceHealth(
            state=state,
            frames=self._seen,
            dropped=0,
            decode_errors=0,
            reconnects=0,
            frozen=False,
            black=False,
            last_frame=self._last_frame,
            message="",
        )
