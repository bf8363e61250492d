"""One command for every figure on latency: tables, pictures and JSON, resumable.

    python -m benchmarks.latency [--ort-training PYTHON]

See README.md in this folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.latency import profile, report, roofline, scaling, startup
from benchmarks.latency.records import Records
from benchmarks.latency.rows import EAGER, EDGEWF
from benchmarks.latency.side_by_side import (
    MODELS,
    Setting,
    exported_bundle,
    key,
    measure,
    rows_here,
)
from benchmarks.machine import describe_machine, machine_line
from edgewf.bench.noise import CpuTime
from edgewf.commands.explaining import ExplainingCommand

_STUDIES = ("side-by-side", "profile", "scaling", "startup")
_STARTED = "efficientnet_lite0"  # the network of the start-up and of the scaling


@dataclass(frozen=True)
class _Run:
    """What all studies share."""

    records: Records
    rows: list[str]
    repeats: int
    folder: Path
    ort_training: Path | None
    say: Callable[[str], None]

    def result(self, setting: Setting, rows: list[str]) -> dict[str, Any]:
        """Measure, unless that was done before."""
        name = key(setting, rows, self.repeats)
        found = self.records.get(name)
        if found is None:
            self.say("measuring peak and bandwidth")
            limits = roofline.measure_machine(setting.threads)
            before, load = CpuTime.now(), os.getloadavg()[0]
            found = measure(setting, rows, self.repeats, self.folder, self.ort_training, self.say)
            foreign, steal = before.shares_until(CpuTime.now())
            found |= {"load_before": load, "foreign_share": foreign, "steal_share": steal}
            found["machine"] = {**describe_machine(), **asdict(limits)}
            self.records.add(name, found)
        result: dict[str, Any] = found
        return result


@click.command(cls=ExplainingCommand)
@click.option("--only", type=click.Choice(_STUDIES), multiple=True, default=_STUDIES)
@click.option("--models", multiple=True, default=MODELS, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--threads", default=os.cpu_count() or 1, show_default=True, help="Of every row.")
@click.option("--repeats", default=15, show_default=True, help="Samples of every row.")
@click.option(
    "--ort-training",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Interpreter of an environment that has ONNX Runtime Training, see ort_training.py.",
)
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/latency"))
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/latency")
)
def main(
    only: tuple[str, ...],
    models: tuple[str, ...],
    batch: int,
    threads: int,
    repeats: int,
    ort_training: Path | None,
    work: Path,
    output: Path,
) -> None:
    """Measure whatever is not there yet, then write tables and pictures."""
    output.mkdir(parents=True, exist_ok=True)
    with Console(stderr=True).status("") as status:
        run = _Run(
            records=Records(output / "measurements.jsonl"),
            rows=rows_here(ort_training),
            repeats=repeats,
            folder=work,
            # Not resolved: the link is what makes it a virtual environment's.
            ort_training=None if ort_training is None else ort_training.absolute(),
            say=status.update,
        )
        parts = [_head(repeats, threads)]
        if "side-by-side" in only:
            parts.append(_side_by_side(run, models, batch, threads, output))
        if "profile" in only:
            parts.append(_profile(run, batch, threads))
        if "scaling" in only:
            parts.append(_scaling(run, threads, output))
        if "startup" in only:
            parts.append(_startup(run, batch, threads))
    text = "\n\n".join(parts) + "\n"
    (output / "latency.md").write_text(text)
    click.echo(text)


def _head(repeats: int, threads: int) -> str:
    return (
        f"# Latency\n\n`python -m benchmarks.latency`: {threads} threads, medians of {repeats} "
        f"alternating rounds, each row a process of its own; {machine_line()}."
    )


def _side_by_side(
    run: _Run,
    models: tuple[str, ...],
    batch: int,
    threads: int,
    output: Path,
) -> str:
    results, costs = [], {}
    for model in models:
        setting = Setting(model, batch, threads=threads)
        run.say(model)
        results.append(run.result(setting, run.rows))
        costs[model] = roofline.step_cost(exported_bundle(setting, run.folder))
    # Both only ever come out too low, when something else is running.
    machine = roofline.Machine(
        *(max(r["machine"][name] for r in results) for name in ("flops", "bandwidth"))
    )
    report.draw(results, costs, machine, output / "latency.png")
    record = {
        "machine": {**describe_machine(), **asdict(machine)},
        "costs": {model: asdict(cost) for model, cost in costs.items()},
        "results": results,
    }
    (output / "latency.json").write_text(json.dumps(record, indent=1) + "\n")
    busy = max(r["foreign_share"] for r in results)
    return (
        f"## One step, side by side\n\nBatch {batch}, every network at its own image size; "
        f"other processes used at most {100 * busy:.0f} % of the processors.\n\n"
        "![Steps a second, in multiples of PyTorch eager's](latency.png)\n\n"
        f"{report.side_by_side(results, costs, machine)}\n\n"
        "Gradient error: relative L2 against float64 autograd (random weights but for "
        "efficientnet_lite0). Limit: see below. Peak memory: of the row's process.\n\n"
        f"### Targets\n\n{report.targets(results)}\n\n"
        f"### The limit of this machine\n\n{report.roofs(costs, machine, batch)}"
    )


def _profile(run: _Run, batch: int, threads: int) -> str:
    found = {}
    for model in report.TARGETS:
        bundle = exported_bundle(Setting(model), run.folder)
        for engine in profile.ENGINES:
            name = json.dumps(["profile", model, engine, batch, threads])
            if run.records.get(name) is None:
                run.say(f"profile: {model}, {engine}")
                measured = profile.profile(bundle, engine, batch, threads)
                run.records.add(name, asdict(measured))
            found[model, engine] = profile.Profile(**run.records.get(name))
    return (
        "## What the time goes to\n\nShares of a step as the runtime's own profiler sees them, "
        f"batch {batch}.\n\n{report.profiles(found)}"
    )


def _scaling(run: _Run, threads: int, output: Path) -> str:
    rows = [row for row in run.rows if row.startswith(EDGEWF)]
    rows += [row for row in run.rows if row.startswith(EAGER) and "bf16" not in row]
    found = {
        what: [(setting, run.result(setting, rows)) for setting in settings]
        for what, settings in scaling.settings(_STARTED, threads).items()
    }
    report.scaling_picture(found, output / "scaling.png")
    return (
        "## While one thing grows\n\n![Step time](scaling.png)\n\nIn brackets: time for the same "
        "amount of work over the row's median; bold where it is off the straight line by more than "
        f"{100 * scaling.OFF_THE_LINE:.0f} %.\n\n{report.scaling(found)}"
    )


def _startup(run: _Run, batch: int, threads: int) -> str:
    name = key(Setting(_STARTED, batch, threads=threads), ["startup"], run.repeats)
    found = run.records.get(name)
    if found is None:
        bundle = exported_bundle(Setting(_STARTED), run.folder)
        engines = [row.removeprefix(EDGEWF) for row in run.rows if row.startswith(EDGEWF)]
        first = startup.first_steps(bundle.folder, engines, batch, threads, run.repeats, run.say)
        found = {"help": startup.help_seconds(run.repeats), "first": first}
        run.records.add(name, found)
    return (
        f"## Start-up\n\nSeconds from nothing to the first step of {_STARTED}, batch {batch} "
        f"(target 3 s).\n\n{report.startup(found['help'], found['first'])}"
    )


if __name__ == "__main__":
    main()
