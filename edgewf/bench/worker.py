"""The process that measures one case, and what it says to its parent: a JSON object a line.

{"doing": ..., "share": ...}   progress
{"error": ...}                 an `EdgewfError`, and the end
{"measured": {...}}            the result, and the end
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewf.bench.case import Case
    from edgewf.bundle import Bundle
    from edgewf.engines import Engine, Images

_STATUS = Path("/proc/self/status")
_SILENCE_S = 0.2


def main() -> None:
    """Measure the case on stdin, {"case": ..., "seconds": ..., "spawned": ...}."""
    running = time.perf_counter()
    order = json.loads(sys.stdin.readline())
    # Libraries print to stdout, which is for messages.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from edgewf.bench.case import Case
    from edgewf.errors import EdgewfError

    case = Case.from_json(order["case"])
    try:
        found = _measure(case, order["seconds"], running, messages)
    except EdgewfError as error:
        _say(messages, error=str(error))
        return
    # The clock is that of the whole machine, so the parent's reading can be subtracted.
    found["startup"] = {"python": running - order["spawned"], **found["startup"]}
    _say(messages, measured=found)


def _measure(case: Case, seconds: float, running: float, messages: IO[str]) -> dict[str, Any]:
    """Return start-up times from the moment `running` on, samples and memory."""
    startup: dict[str, float] = {}
    last = running

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        startup[name] = now - last
        last = now

    _say(messages, doing="starting", share=0.0)
    from edgewf.bundle import Bundle
    from edgewf.engines.select import select_engine

    lap("imports")
    bundle = Bundle.load(case.bundle)
    lap("bundle")
    engine = select_engine(case.engine, bundle, case.threads).engine
    lap("engine")

    from edgewf.bench.frames import camera_frame, window
    from edgewf.bench.parts import Stopwatch
    from edgewf.bench.timing import in_turn

    preprocessing, settings = bundle.manifest.preprocessing, case.settings
    images = window(preprocessing, settings.window)
    batch, camera = images[: settings.batch_size], camera_frame(0)
    stopwatch = Stopwatch(engine, lambda: engine.reset(settings))
    last = time.perf_counter()  # pictures are no part of the start
    engine.reset(settings)
    engine.step(batch)
    stopwatch.wait()
    lap("first_step")
    engine.infer(batch)
    lap("first_inference")

    def preprocess() -> dict[str, float]:
        begin = time.perf_counter()
        preprocessing(camera)
        return {"preprocessing": time.perf_counter() - begin}

    loaded = _peak_memory()
    begin = time.perf_counter()
    samples = in_turn(
        {
            "preprocessing": preprocess,
            "inference": lambda: stopwatch.inference(batch),
            "step": lambda: stopwatch.step(batch),
            "record": lambda: stopwatch.record(batch),
            "probe": lambda: stopwatch.probe(batch),
        },
        seconds,
        _reporter(messages, "calls"),
    )
    estimates, periods = [], []
    for steps in case.steps:
        times, period = _estimates(bundle, engine, case, steps, images, seconds, messages)
        estimates.append({"steps": steps, "seconds": times})
        periods.append({"estimates": len(times), "begin": period[0], "end": period[1]})
    return {
        "startup": startup,
        "seconds": samples,
        "estimates": estimates,
        "periods": periods,
        "measuring": {"begin": begin, "end": time.perf_counter()},
        "memory": {"loaded_bytes": loaded, "peak_bytes": _peak_memory()},
    }


def _estimates(
    bundle: Bundle,
    engine: Engine,
    case: Case,
    steps: int,
    images: Images,
    seconds: float,
    messages: IO[str],
) -> tuple[list[float], tuple[float, float]]:
    """Return what each of several estimates took, and when the first began and the last ended."""
    from dataclasses import replace

    from edgewf.bench.timing import in_turn
    from edgewf.estimation import Estimator

    estimator = Estimator(bundle, engine, None, replace(case.settings, steps=steps))
    done: list[float] = []

    def estimate() -> dict[str, float]:
        begin = time.perf_counter()
        estimator(images, source="", time=0.0)
        done.append(time.perf_counter())
        return {"estimate": done[-1] - begin}

    progress = _reporter(messages, f"estimates with {steps} steps")
    times = in_turn({"estimate": estimate}, seconds, progress, warm_up=1)["estimate"]
    # The energy is taken over those that are counted, which end back to back.
    return times, (done[-len(times)] - times[0], done[-1])


def _peak_memory() -> int | None:
    """Return the most memory that this process ever had in RAM, bytes; None if Linux says not."""
    for line in _STATUS.read_text().splitlines() if _STATUS.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return None


def _reporter(messages: IO[str], doing: str) -> Callable[[float], None]:
    """Return a callback that reports progress, but not so often that it would be measured."""
    _say(messages, doing=doing, share=0.0)
    said = time.perf_counter()

    def report(share: float) -> None:
        nonlocal said
        if time.perf_counter() - said > _SILENCE_S:
            _say(messages, doing=doing, share=share)
            said = time.perf_counter()

    return report


def _say(messages: IO[str], **what: Any) -> None:
    messages.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    main()
