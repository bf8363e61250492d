"""A step and its parts, on every kind of engine.

Parts of a step on the host are taken with a monotonic clock inside the step itself, so they add
up to it. On a GPU, where the host only enqueues, they lie between events on the engine's stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edgewf.bench.timing import Durations
from edgewf.engines import Engine, Float32, Images
from edgewf.engines.host import HostEngine, LogitsGradient

STEP_PARTS = ("upload", "forward", "objective", "backward", "forward_backward", "update")
"""In their order; each engine has some of them. `forward_backward` is both where a runtime runs
them as one graph, in which work of one may be done between that of the other."""


class Stopwatch:
    """Times calls of an engine.

    Args:
        engine: a loaded one, whose burst this uses.
        settings: of the burst; `reset` runs before each sample, outside the time that is taken.
    """

    def __init__(self, engine: Engine, reset: Callable[[], None]) -> None:
        self._engine = engine
        self._reset = reset
        self._laps: list[float] = []
        if isinstance(engine, HostEngine):
            self._watch(engine)

    def inference(self, images: Images) -> Durations:
        """Run the deployed network on a batch."""
        return {"inference": self._seconds(lambda: self._engine.infer(images))}

    def record(self, images: Images) -> Durations:
        """Take the labels before the burst."""
        self._reset()
        return {"record": self._seconds(lambda: self._engine.record(images))}

    def probe(self, images: Images) -> Durations:
        """Take the labels after the burst."""
        self._reset()
        return {"probe": self._seconds(lambda: self._engine.probe(images))}

    def step(self, images: Images) -> Durations:
        """Run one step."""
        self._reset()
        self._laps.clear()
        begin = time.perf_counter()
        self._engine.step(images)
        self.wait()
        end = time.perf_counter()
        if isinstance(self._engine, HostEngine):
            return {"step": end - begin, **self._host_parts(self._engine, begin, end)}
        return {"step": end - begin, **self._device_parts(images)}

    def _seconds(self, call: Callable[[], object]) -> float:
        begin = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - begin

    def wait(self) -> None:
        """Wait for a GPU; host engines are done when a call returns."""
        if not isinstance(self._engine, HostEngine):
            from edgewf.engines.device import DeviceEngine

            assert isinstance(self._engine, DeviceEngine)
            with self._engine.gpu.current("timing"):
                self._engine.gpu.wait()

    def _watch(self, engine: HostEngine) -> None:
        """Note the time wherever a step goes from one part to the next."""
        gradient = engine.gradient

        def watched(images: Images, dlogits: LogitsGradient) -> Float32:
            def objective(logits: Float32) -> Float32:
                self._laps.append(time.perf_counter())
                upstream = dlogits(logits)
                self._laps.append(time.perf_counter())
                return upstream

            found = gradient(images, objective)
            self._laps.append(time.perf_counter())
            return found

        engine.gradient = watched  # type: ignore[method-assign]

    def _host_parts(self, engine: HostEngine, begin: float, end: float) -> Durations:
        asked, answered, back = self._laps
        between = {"objective": answered - asked, "update": end - back}
        if engine.joins_graphs:
            return {"forward_backward": asked - begin + back - answered, **between}
        return {"forward": asked - begin, "backward": back - answered, **between}

    def _device_parts(self, images: Images) -> Durations:
        from edgewf.engines.device import DeviceEngine

        assert isinstance(self._engine, DeviceEngine)
        self._reset()
        return self._engine.step_parts(images)
