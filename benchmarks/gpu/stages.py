"""The stages of the GPU check, each a process of its own: what it runs, and what came of it.

A stage prints one JSON object a line, so that one that crashes, hangs or runs out of time leaves
what it had found. A record may say "skipped" with the reason, or "passed".
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Trained weights first: agreement of flips means most there.
MODELS = ("efficientnet_lite0", "mobilenet_v3_large", "resnet50")
ENGINES = ("tensorrt", "ort-cuda", "ort-tensorrt")
FP16 = "-fp16"  # ends the names of fp16 bundles
PICTURES = "photographs.npz"  # beside the bundles
BUNDLES = (*MODELS, f"{MODELS[0]}{FP16}", f"{MODELS[2]}{FP16}")

Record = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A part of the check.

    Attributes:
        name: as `--only` spells it, or a beginning of it does.
        command: module and arguments; "{bundles}" becomes the folder of bundles.
        limit: seconds it may take.
        correctness: its failure fails the check; else it misses a target at worst.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    correctness: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a stage came to.

    Attributes:
        stage: its name.
        status: "passed", "failed" (a correctness check), "missed" (a target), "skipped",
            "measured" (nothing to pass or miss), "crashed" or "timed out".
        correctness: see `Stage`.
        seconds: it took.
        records: that it printed.
        reason: why it was skipped or ended early, the end of what it wrote to stderr; or "".
    """

    stage: str
    status: str
    correctness: bool
    seconds: float
    records: tuple[Record, ...]
    reason: str

    @property
    def broken(self) -> bool:
        """A correctness check did not hold, or could not come to its end."""
        return self.correctness and self.status in ("failed", "crashed", "timed out")


def stages() -> tuple[Stage, ...]:
    """Return every stage: correctness first, and within it what the rest stands on."""
    kernels = "benchmarks.gpu.kernels"
    checks = ("correctness", 90.0), ("reproducibility", 30.0), ("sanitizer", 90.0)
    speeds = ("bandwidth", 45.0), ("latency", 20.0), ("torch", 60.0)
    first, *others = BUNDLES
    return (
        *(Stage(f"kernels/{x}", (kernels, "--only", x), s, True) for x, s in checks),
        _engine_stage("plans", first, "tensorrt", 120.0),
        *(_engine_stage("agreement", first, engine, 60.0, True) for engine in ENGINES),
        *(Stage(f"kernels/{x}", (kernels, "--only", x), s) for x, s in speeds),
        *(_engine_stage("plans", bundle, "tensorrt", 120.0) for bundle in others),
        *_each("latency", BUNDLES, 45.0),
        *(Stage(f"torch/{x}", ("benchmarks.gpu.torch_step", x), 60.0) for x in MODELS),
        *_each("agreement", others, 60.0, True),
    )


def _each(
    what: str, bundles: Iterable[str], limit: float, correctness: bool = False
) -> Iterator[Stage]:
    """Yield a stage for each bundle and engine; fp16 is TensorRT's, the others only follow."""
    for bundle in bundles:
        for engine in ENGINES[:1] if bundle.endswith(FP16) else ENGINES:
            yield _engine_stage(what, bundle, engine, limit, correctness)


def _engine_stage(
    what: str, bundle: str, engine: str, limit: float, correctness: bool = False
) -> Stage:
    command = ("benchmarks.gpu.engines", what, engine, f"{{bundles}}/{bundle}")
    return Stage(f"{what}/{bundle}/{engine}", command, limit, correctness)


def run(stage: Stage, python: str, bundles: Path, left: float) -> Outcome:
    """Run a stage.

    Args:
        stage: which.
        python: interpreter that has the packages.
        bundles: folder of exported models.
        left: seconds that the whole check still has.
    """
    if left <= 0:
        return Outcome(stage.name, "skipped", stage.correctness, 0.0, (), "no time was left")
    command = [python, "-m", *(x.replace("{bundles}", os.fspath(bundles)) for x in stage.command)]
    start = time.perf_counter()
    late = False
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        # A group of its own, so that a stage that hangs goes with all it has started.
        child = subprocess.Popen(command, stdout=out, stderr=err, text=True, start_new_session=True)
        try:
            child.wait(min(stage.limit, left))
        except subprocess.TimeoutExpired:
            late = True
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        printed, complaints = (_lines(stream) for stream in (out, err))
    seconds = time.perf_counter() - start
    records = tuple(_records(printed))
    status = judge(records, child.returncode, late, stage.correctness)
    reason = ""
    if late:
        reason = f"stopped after {seconds:.0f} s"
    elif status == "crashed":
        reason = f"exit status {child.returncode}: {' / '.join(complaints[-3:]) or 'no message'}"
    elif status == "skipped":
        reason = str(records[0]["skipped"])
    return Outcome(stage.name, status, stage.correctness, seconds, records, reason)


def judge(records: tuple[Record, ...], returncode: int, late: bool, correctness: bool) -> str:
    """Return the status of a stage that ended, see `Outcome`.

    A check that exits with status 1 after a record that says "passed": false has not crashed.
    """
    verdicts = [record["passed"] for record in records if "passed" in record]
    if False in verdicts:
        return "failed" if correctness else "missed"
    if late:
        return "timed out"
    if returncode or not records:
        return "crashed"
    if all("skipped" in record for record in records):
        return "skipped"
    return "passed" if verdicts else "measured"


def _lines(stream: Any) -> list[str]:
    stream.seek(0)
    return [line.rstrip() for line in stream if line.strip()]


def _records(lines: Iterable[str]) -> Iterator[Record]:
    """Yield the JSON objects among lines, without one that a killed stage was writing."""
    for line in lines:
        if line.startswith("{"):
            with suppress(ValueError):
                yield json.loads(line)
