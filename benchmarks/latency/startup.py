"""How long a user waits: for help, and for the first step of a bundle."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgewf.bench.case import cases
from edgewf.bench.run import run
from edgewf.bundle import Bundle

_EDGEWF = (sys.executable, "-c", "from edgewf.cli import main; main()")


def help_seconds(repeats: int) -> list[float]:
    """Time `edgewf --help` as a process of its own."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        subprocess.run([*_EDGEWF, "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return times[1:]  # the first one also fills the file cache


def first_steps(
    folder: Path,
    engines: list[str],
    batch: int,
    threads: int,
    repeats: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return for each engine the median seconds of every part of the way to the first step."""
    bundle = Bundle.load(folder)
    chosen = cases([bundle], engines, [batch], [threads], [0], batch)
    result = run(chosen, seconds=0.1, rounds=repeats, progress=lambda share, doing: say(doing))
    found = {}
    for case in result["cases"]:
        parts = case["startup"]
        to_step = {name: parts[name] for name in parts if name not in ("total", "first_inference")}
        totals = [sum(r["startup"][name] for name in to_step) for r in case["rounds"]]
        found[case["case"]["engine"]] = {**to_step, "first step done": statistics.median(totals)}
    return found
