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
from rich.console import Console
from rich.progress import track

from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle
from edgewf.commands.explaining import ExplainingCommand
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
        number = 0
        while (start := time.perf_counter()) < began + seconds:
            monitor.observe(frames[number % FRAMES])
            latencies.append(time.perf_counter() - start)
            number += 1
            due = max(due + 1 / fps, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
        health = monitor.health()
    return {
        "latencies": [round(x, 6) for x in latencies],
        "estimates": health.bursts,
        "duty": health.duty,
        "memory_bytes": health.memory_bytes,
    }


def quantiles(rounds: list[dict[str, Any]]) -> list[float]:
    """Return `QUANTILES` of all latencies of some rounds, in seconds."""
    return np.percentile(np.concatenate([r["latencies"] for r in rounds]), QUANTILES).tolist()


def table(engine: str, off: list[dict[str, Any]], on: list[dict[str, Any]]) -> str:
    """Return the results of one engine as Markdown."""
    lines = [
        f"## {engine}",
        "",
        "| | frames | " + " | ".join(f"p{q:g}, ms" for q in QUANTILES) + " |",
        "|---|---:|" + "---:|" * len(QUANTILES),
    ]
    values = {"without bursts": quantiles(off), "with bursts": quantiles(on)}
    for (name, found), rounds in zip(values.items(), (off, on), strict=True):
        count = sum(len(r["latencies"]) for r in rounds)
        lines.append(f"| {name} | {count} | {' | '.join(f'{1e3 * x:.2f}' for x in found)} |")
    ratios = [b / a for a, b in zip(*values.values(), strict=True)]
    lines.append("| ratio | | " + " | ".join(f"{x:.3f}" for x in ratios) + " |")
    each = [quantiles([b])[2] / quantiles([a])[2] for a, b in zip(off, on, strict=True)]
    share = np.mean([r["duty"] for r in on])
    lines += [
        "",
        "Ratio of p99 round by round: " + ", ".join(f"{x:.3f}" for x in each) + ".",
        f"Slices took {100 * share:.1f} % of the time; the rest after the last one is not in it.",
        "",
    ]
    return "\n".join(lines)


@click.command(cls=ExplainingCommand)
@click.argument("bundle")
@click.option("--engine", "engines", multiple=True, default=["auto"], show_default=True)
@click.option("--threads", type=int, help="Of the engines; the runtime's choice if left out.")
@click.option("--duty-cycle", default=0.1, show_default=True)
@click.option("--fps", default=15.0, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Of a round.")
@click.option("--rounds", default=4, show_default=True, help="Of each kind.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/live"))
@click.option("--single", is_flag=True, hidden=True)
def main(
    bundle: str,
    engines: tuple[str, ...],
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
        click.echo(json.dumps(one_round(bundle, engines[0], threads, duty_cycle, fps, seconds)))
        return
    Bundle.load(bundle)  # refuses it once, not in every round

    def child(engine: str, duty: float) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.live.latency", bundle, "--single"]
        command += ["--engine", engine, "--duty-cycle", str(duty)]
        command += ["--fps", str(fps), "--seconds", str(seconds)]
        command += [] if threads is None else ["--threads", str(threads)]
        result: dict[str, Any] = json.loads(subprocess.check_output(command))
        return result

    load = os.getloadavg()[0]
    off: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    on: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for _ in track(range(rounds), "measuring", console=Console(stderr=True)):
        for engine in engines:
            off[engine].append(child(engine, NEVER))
            on[engine].append(child(engine, duty_cycle))
    text = (
        "# Latency of deployed inference beside bursts\n\n"
        f"`python -m benchmarks.live.latency`: {Path(bundle).name}, {fps:g} frames a second, duty "
        f"cycle {duty_cycle:g}, {rounds} rounds of {seconds:g} s of each kind, "
        f"{threads or 'the runtime chooses its'} threads; {machine_line()}. The machine was "
        f"shared; load average {load:.1f} before the run, {os.getloadavg()[0]:.1f} after it.\n\n"
    ) + "\n".join(table(engine, off[engine], on[engine]) for engine in engines)
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe_machine(), "load_before": load, "off": off, "on": on}
    (output / "latency.json").write_text(json.dumps(record) + "\n")
    (output / "latency.md").write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
