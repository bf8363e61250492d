"""Running cases one after another, each in a process of its own, and putting a result together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgewf.bench.case import Case
from edgewf.bench.environment import environment
from edgewf.bench.meter import Meter, conditions
from edgewf.bench.noise import CpuTime, complaints
from edgewf.bench.nvml import Nvml
from edgewf.bench.result import FORMAT, FORMAT_VERSION, drifts, summary
from edgewf.bundle import Bundle
from edgewf.errors import EdgewfError

Progress = Callable[[float, str], None]
"""Called with the share of the whole that is done, 0 to 1, and what is being measured."""

_COMMAND = (sys.executable, "-m", "edgewf.bench.worker")
_IDLE_S = 2.0


def run(
    cases: Sequence[Case], *, seconds: float, rounds: int, progress: Progress
) -> dict[str, Any]:
    """Measure all cases `rounds` times over and return the result as JSON values.

    A case that fails is recorded with its error, and the others go on.

    Args:
        cases: what to measure, at least one.
        seconds: that a worker may spend on the calls of an engine, and again on the estimates of
            each number of steps; stable medians end it earlier.
        rounds: how often to go through all cases.
        progress: see there.

    Raises:
        EdgewfError: every case failed; says why the first one did.
    """
    load = os.getloadavg()[0]
    nvml = Nvml.open()
    done: list[list[dict[str, Any]]] = [[] for _ in cases]
    errors: dict[int, str] = {}
    with Meter(nvml=nvml) as meter:
        idle = _idle_watts(meter)
        before = CpuTime.now()
        for place in range(rounds * len(cases)):
            index = place % len(cases)
            if index in errors:
                continue
            try:
                done[index].append(
                    _work(cases[index], seconds, _scaled(progress, place, rounds * len(cases)))
                )
            except EdgewfError as error:
                errors[index] = str(error)
        foreign, steal = before.shares_until(CpuTime.now())
    if len(errors) == len(cases):
        raise EdgewfError(errors[0])
    found = [
        {"case": case.to_json(), **_identity(case), "error": errors[i]}
        if i in errors
        else _finished(case, done[i], meter, idle)
        for i, case in enumerate(cases)
    ]
    measured = [r["measuring"] for parts in done for r in parts]
    readings = [x for m in measured for x in meter.between(m["begin"], m["end"])]
    state = conditions(readings)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "time": time.time(),
        "environment": environment(),
        "seconds": seconds,
        "rounds": rounds,
        "power": {"sources": meter.sources, "idle_watts": idle, "mode": meter.power_mode},
        "conditions": state,
        "noise": {
            "foreign_share": foreign,
            "steal_share": steal,
            "load_before": load,
            "complaints": complaints(foreign, steal, load, state, drifts(found)),
        },
        "cases": found,
    }


def _work(case: Case, seconds: float, progress: Progress) -> dict[str, Any]:
    """Run a worker to its end and return what it measured."""
    progress(0.0, case.name)
    spawned = time.perf_counter()
    order = {"case": case.to_json(), "seconds": seconds, "spawned": spawned}
    parts = 1 + len(case.steps)
    part, doing = -1, ""
    with tempfile.TemporaryFile("w+") as words, _child(words) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once and left its words
            child.stdin.write(json.dumps(order) + "\n")
            child.stdin.close()
        for line in child.stdout:
            message = json.loads(line)
            if "error" in message:
                raise EdgewfError(message["error"])
            if "measured" in message:
                measured: dict[str, Any] = message["measured"]
                child.wait()
                measured["lifetime"] = {"begin": spawned, "end": time.perf_counter()}
                return measured
            if message["doing"] != doing:
                part, doing = part + 1, message["doing"]
            share = (max(0, part - 1) + message["share"]) / parts
            progress(min(1.0, share), f"{case.name}: {doing}")
        status = child.wait()
        words.seek(0)
        last = words.read().strip().splitlines()[-1:]
    if status == -signal.SIGKILL:
        raise EdgewfError(
            f"{case.name}: the worker was killed, most likely because memory ran out: use a "
            "smaller --batch-size, or export with --memory low"
        )
    raise EdgewfError(
        f"{case.name}: the worker ended with status {status} ({'; '.join(last) or 'no message'}): "
        "try another --engine; `edgewf doctor` says what may be broken"
    )


@contextlib.contextmanager
def _child(words: Any) -> Iterator[subprocess.Popen[str]]:
    # A session of its own: Ctrl-C is for the parent, which then ends it.
    child = subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        text=True,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def _scaled(progress: Progress, place: int, places: int) -> Progress:
    return lambda share, doing: progress((place + share) / places, doing)


def _idle_watts(meter: Meter) -> float | None:
    """Return what the device draws before anything is measured."""
    if not meter.sources:
        return None
    begin = time.perf_counter()
    time.sleep(_IDLE_S)
    joules = meter.energy(begin, time.perf_counter())
    return None if joules is None else joules / _IDLE_S


def _identity(case: Case) -> dict[str, Any]:
    """Say which model it was: hashes, so that a result cannot be taken for another model's."""
    bundle = Bundle.load(case.bundle)
    manifest = bundle.manifest
    return {
        "model": manifest.model,
        "fingerprint": manifest.fingerprint,
        "precision": manifest.precision,
        "image_size": manifest.preprocessing.image_size,
        "classes": manifest.classes,
        "multiply_adds": manifest.multiply_adds,
        "residual_bytes": manifest.residual_bytes,
        "files": {name: record["sha256"] for name, record in manifest.files.items()},
    }


def _finished(
    case: Case, rounds: list[dict[str, Any]], meter: Meter, idle: float | None
) -> dict[str, Any]:
    for measured in rounds:
        life = measured.pop("lifetime")
        inside = meter.between(life["begin"], life["end"])
        measured["memory"] |= {
            "system_bytes": _most_taken([x.available_bytes for x in inside], -1),
            "device_bytes": _most_taken([x.device_bytes for x in inside], 1),
        }
        for estimates, period in zip(measured["estimates"], measured.pop("periods"), strict=True):
            joules = meter.energy(period["begin"], period["end"])
            estimates["joules"] = None if joules is None else joules / period["estimates"]
        measured["conditions"] = conditions(inside)
    record = {"case": case.to_json(), **_identity(case), "rounds": rounds}
    return {**record, **summary(rounds, case.settings.batch_size, idle)}


def _most_taken(values: Sequence[int | None], sign: int) -> int | None:
    """Return how far a reading went up (sign 1) or down (-1) from the first one."""
    known = [sign * x for x in values if x is not None]
    return max(known) - known[0] if known else None
