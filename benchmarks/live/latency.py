"""What bursts cost deployed inference: latency of `Monitor.observe` with and without them.

    python -m benchmarks.live.latency BUNDLE

Frames of the demo's moving camera come at a fixed rate, as from a camera; the time from each call
of `observe` to its return is noted. Rounds with and without bursts alternate, each in a process of
its own. Without means that a burst rests for ever after its first slice, so that both do the same
in every other respect.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track

from benchmarks.machine import describe_machine, machine_line
from edgewf.monitor import Monitor
from edgewf.stream import open_source

NEVER = 1e-6  # a duty cycle at which the first slice is followed by hours of rest
FRAMES = 300  # that are shown again and again; more than a window
QUANTILES = (50, 90, 99, 99.9)


def one_round(
    bundle: str, engine: str, threads: int | None, duty: float, fps: float, seconds: float
) -> dict[str, Any]:
    """Return the latencies of a round, in seconds, and what the bursts did meanwhile."""
    frames = [frame.image for frame in islice(open_source(f"demo?frames={FRAMES}"), FRAMES)]
    with Monitor(bundle, engine=engine, threads=threads, duty_cycle=duty) as monitor:
        for frame in frames:  # fills a window, so that bursts begin
            monitor.observe(frame)
        time.sleep(2)
        latencies = []
        due = began = time.perf_counter()
        burst_began = time.process_time()
        number = 0
        while (start := time.perf_counter()) < began + seconds:
            monitor.observe(frames[number % FRAMES])
            latencies.append(time.perf_counter() - start)
            number += 1
            due = max(due + 1 / fps, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
        health = monitor.health()
    return {
        "engine": monitor.engine,
        "latencies": latencies,
        "process_seconds": time.process_time() - burst_began,
        "estimates": health.bursts,
        "duty": health.duty,
        "memory_bytes": health.memory_bytes,
    }


def quantiles(rounds: list[dict[str, Any]]) -> list[float]:
    """Return `QUANTILES` of all latencies of some rounds, in seconds."""
    return np.percentile(np.concatenate([r["latencies"] for r in rounds]), QUANTILES).tolist()


def report(settings: str, off: list[dict[str, Any]], on: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Latency of deployed inference beside bursts",
        "",
        f"`python -m benchmarks.live.latency`: {settings}; {on[0]['engine']}; {machine_line()}. "
        f"The machine was shared; load average before the run {os.getloadavg()[0]:.1f}.",
        "",
        "| | frames | " + " | ".join(f"p{q:g}, ms" for q in QUANTILES) + " | estimates |",
        "|---|---:|" + "---:|" * (len(QUANTILES) + 1),
    ]
    values = {"without bursts": quantiles(off), "with bursts": quantiles(on)}
    for (name, found), rounds in zip(values.items(), (off, on), strict=True):
        count = sum(len(r["latencies"]) for r in rounds)
        estimates = sum(r["estimates"] for r in rounds)
        cells = " | ".join(f"{1e3 * x:.2f}" for x in found)
        lines.append(f"| {name} | {count} | {cells} | {estimates} |")
    ratios = [b / a for a, b in zip(*values.values(), strict=True)]
    lines.append("| ratio | | " + " | ".join(f"{x:.3f}" for x in ratios) + " | |")
    each = [quantiles([b])[2] / quantiles([a])[2] for a, b in zip(off, on, strict=True)]
    lines += ["", "Ratio of p99 round by round: " + ", ".join(f"{x:.3f}" for x in each) + "."]
    share = np.mean([r["duty"] for r in on])
    lines.append(f"Bursts ran {100 * share:.1f} % of the time.")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("bundle")
@click.option("--engine", default="auto", show_default=True)
@click.option("--threads", type=int, help="Of the engines; the runtime's choice if left out.")
@click.option("--duty-cycle", default=0.1, show_default=True)
@click.option("--fps", default=15.0, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Of a round.")
@click.option("--rounds", default=4, show_default=True, help="Of each kind.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/live"))
@click.option("--single", is_flag=True, hidden=True)
def main(
    bundle: str,
    engine: str,
    threads: int | None,
    duty_cycle: float,
    fps: float,
    seconds: float,
    rounds: int,
    output: Path,
    single: bool,
) -> None:
    """Compare the latency of BUNDLE's inference with and without bursts."""
    if single:
        click.echo(json.dumps(one_round(bundle, engine, threads, duty_cycle, fps, seconds)))
        return

    def child(duty: float) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.live.latency", bundle, "--single"]
        command += ["--engine", engine, "--duty-cycle", str(duty)]
        command += ["--fps", str(fps), "--seconds", str(seconds)]
        command += [] if threads is None else ["--threads", str(threads)]
        result: dict[str, Any] = json.loads(subprocess.check_output(command))
        return result

    off, on = [], []
    for _ in track(range(rounds), "measuring"):
        off.append(child(NEVER))
        on.append(child(duty_cycle))
    settings = (
        f"{Path(bundle).name}, {fps:g} frames a second, duty cycle {duty_cycle:g}, {rounds} rounds "
        f"of {seconds:g} s of each kind, {threads or 'all'} threads"
    )
    text = report(settings, off, on)
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe_machine(), "settings": settings, "off": off, "on": on}
    (output / "latency.json").write_text(json.dumps(record) + "\n")
    (output / "latency.md").write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
