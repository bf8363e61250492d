"""Results as tables for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgewf.bench.budget import Budget, Proposal, amount_text
from edgewf.bench.compare import Difference
from edgewf.bench.environment import device_line
from edgewf.bench.parts import STEP_PARTS
from edgewf.bench.result import label
from edgewf.bench.statistics import SPREAD

_MIB = 2**20


def result_report(result: dict[str, Any]) -> RenderableType:
    """Return what `edgewf bench` shows of a result."""
    measured = [case for case in result["cases"] if "error" not in case]
    failed = [case for case in result["cases"] if "error" in case]
    return Group(
        Text(", ".join(dict.fromkeys(_model(case) for case in measured)), style="bold"),
        Text(device_line(result["environment"]), style="dim"),
        _costs(measured),
        _estimates(measured),
        _parts(measured),
        _starts(measured),
        *(Text(f"{label(c)} failed: {c['error']}", style="red") for c in failed),
        *(Text(line) for line in _notes(result, measured)),
        *(Text(f"noisy: {line}", style="yellow") for line in warnings(result)),
    )


def warnings(result: dict[str, Any]) -> list[str]:
    """Return every reason to doubt the figures of a result."""
    found = list(result["noise"]["complaints"])
    for case in result["cases"]:
        seconds = case.get("seconds", {})
        wide = [
            f"{name} {100 * seconds[name]['spread']:.0f} %"
            for name in ("inference", "step")
            if name in seconds and seconds[name]["spread"] > SPREAD
        ]
        if wide:
            found.append(f"{label(case)}: interquartile range of {', '.join(wide)} of the median")
        if case.get("unstable"):
            names = ", ".join(case["unstable"])
            found.append(f"{label(case)}: medians not stable, give more --seconds: {names}")
    return found


def comparison_report(
    names: Sequence[str], differences: Sequence[Sequence[Difference]]
) -> RenderableType:
    """Return what `edgewf bench --compare` shows.

    Args:
        names: of the results; the first is what the others are compared with.
        differences: of each other result.
    """
    pairs = zip(names[1:], differences, strict=True)
    return Group(*(table for name, found in pairs for table in _comparison(names[0], name, found)))


def proposal_report(
    budget: Budget, proposals: Sequence[Proposal], verified: float | None
) -> RenderableType:
    """Return what `edgewf bench --budget` shows.

    Args:
        budget: what was asked for.
        proposals: the best first.
        verified: what an estimate cost when the best was run, in the budget's unit.
    """
    table = _table(f"bursts that fit {budget}")
    for name in ("measured on", "batch", "window", "steps", "an estimate", "calibration"):
        right = name in ("batch", "window", "steps", "an estimate")
        table.add_column(name, justify="right" if right else "left")
    for proposal in proposals:
        table.add_row(
            Text(proposal.case),
            str(proposal.batch_size),
            str(proposal.window),
            str(proposal.steps),
            amount_text(proposal.cost, budget.unit),
            "as it is" if proposal.as_usual else "needs a new one",
        )
    best = proposals[0]
    command = "monitor" if best.as_usual else "calibrate"
    more = "--source URI" if best.as_usual else "--data DIR"
    line = f"edgewf {command} {best.bundle} {more} {best.options}"
    found = "" if verified is None else f"; run, it took {amount_text(verified, budget.unit)}"
    return Group(table, Text(f"{line}{found}"))


def _costs(cases: Sequence[dict[str, Any]]) -> Table:
    device = any(c["memory"]["device_bytes"] is not None for c in cases)
    table, names = _case_table("a batch", cases)
    columns = ["inference", "step", "p90", "p99", "ratio", "img/s", "MiB"]
    for name in [*columns, "GPU MiB"] if device else columns:
        table.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        inference, step = case["seconds"]["inference"], case["seconds"]["step"]
        table.add_row(
            *names(case),
            _seconds(inference["p50"]),
            _seconds(step["p50"]),
            _seconds(step["p90"]),
            _seconds(step["p99"]),
            f"{case['step_over_inference']:.1f}",
            f"{case['images_per_second']['step']:.1f}",
            _mebibytes(case["memory"]["peak_bytes"]),
            *([_mebibytes(case["memory"]["device_bytes"])] if device else []),
        )
    return table


def _estimates(cases: Sequence[dict[str, Any]]) -> Table:
    joules = any(e["joules"] is not None for c in cases for e in c["estimates"])
    table, names = _case_table("an estimate", cases)
    columns = ["frames", "steps", "median", "mean", "95 % of mean"]
    for name in [*columns, "energy", "above idle"] if joules else columns:
        table.add_column(name, justify="right", no_wrap=True)
    for case in cases:
        for estimate in case["estimates"]:
            seconds = estimate["seconds"]
            low_high = seconds["mean_interval"]
            table.add_row(
                *names(case),
                str(case["case"]["settings"]["window"]),
                str(estimate["steps"]),
                _seconds(seconds["p50"]),
                _seconds(seconds["mean"]),
                "" if low_high is None else " to ".join(_seconds(x) for x in low_high),
                *(_joules(estimate) if joules else []),
            )
    return table


def _parts(cases: Sequence[dict[str, Any]]) -> Table:
    parts = [part for part in STEP_PARTS if any(part in c["seconds"] for c in cases)]
    table, names = _case_table("a camera frame to the input, and the parts of a step", cases)
    for name in ("frame", *parts):
        table.add_column(name.replace("_", " +\n"), justify="right", no_wrap=True)
    for case in cases:
        seconds = case["seconds"]
        whole = sum(seconds[part]["mean"] for part in parts if part in seconds)
        table.add_row(
            *names(case),
            _seconds(seconds["preprocessing"]["p50"]),
            *(
                f"{_seconds(seconds[part]['p50'])}\n{100 * seconds[part]['mean'] / whole:.0f} %"
                if part in seconds
                else ""
                for part in parts
            ),
        )
    return table


def _starts(cases: Sequence[dict[str, Any]]) -> Table:
    table, names = _case_table("seconds from nothing to the first step", cases)
    laps = list(cases[0]["startup"])
    for lap in laps:
        table.add_column(lap.replace("_", "\n"), justify="right", no_wrap=True)
    for case in cases:
        table.add_row(*names(case), *(f"{case['startup'][lap]:.3f}" for lap in laps))
    return table


def _case_table(
    title: str, cases: Sequence[dict[str, Any]]
) -> tuple[Table, Callable[[dict[str, Any]], list[str]]]:
    """Return a table with columns for what the cases differ in, and the cells of a case."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("model", lambda case: case["model"]),
        ("precision", lambda case: case["precision"]),
        ("engine", lambda case: case["case"]["engine"]),
        ("batch", lambda case: str(case["case"]["settings"]["batch_size"])),
        ("threads", lambda case: str(case["case"]["threads"] or "")),
    ]
    shown = [
        (name, cell)
        for name, cell in columns
        if name in ("engine", "batch") or len({cell(case) for case in cases}) > 1
    ]
    table = _table(title)
    for name, _ in shown:
        table.add_column(name, style="bold", no_wrap=True)
    return table, lambda case: [cell(case) for _, cell in shown]


def _notes(result: dict[str, Any], cases: Sequence[dict[str, Any]]) -> Iterator[str]:
    counts = [c["seconds"]["step"]["samples"] for c in cases]
    yield (
        f"Medians of {min(counts)} steps or more in {result['rounds']} rounds; p99 is left out "
        "below 100. Ratio: a step to deployed inference. MiB: peak of the process. Parts in "
        "percent of their sum."
    )
    if any("forward_backward" in c["seconds"] for c in cases):
        yield "forward + backward: one graph to the runtime, so they cannot be told apart."
    power = result["power"]
    if power["sources"]:
        idle = (
            "" if power["idle_watts"] is None else f", {power['idle_watts']:.2f} W before the run"
        )
        yield f"Energy: {', '.join(power['sources'])}{idle}."
    else:
        yield "Energy: no sensor that can be read."
    state = result["conditions"]
    known = [
        f"{name} {low:.0f} to {high:.0f} {unit}"
        for key, name, unit in (
            ("cpu_mhz", "processor", "MHz"),
            ("gpu_mhz", "GPU", "MHz"),
            ("temperature", "hottest sensor", "C"),
        )
        if state[key] is not None
        for low, high in [state[key]]
    ]
    if power["mode"]:
        known.append(f"power mode {power['mode']}")
    if known:
        yield f"Meanwhile: {', '.join(known)}."


def _comparison(before: str, after: str, found: Sequence[Difference]) -> Iterator[Table]:
    """Yield a table for each case."""
    for (case, later), group in groupby(found, key=lambda x: (x.case, x.later_case)):
        what = case if case == later else f"{later} against {case}"
        table = _table(f"{after} against {before}: {what}")
        table.add_column("measurement", style="bold")
        for name in ("before", "after", "ratio", "95 % interval"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for x in group:
            interval = "" if x.interval is None else f"{x.interval[0]:.3f} to {x.interval[1]:.3f}"
            table.add_row(
                x.measurement.replace("_", " + "),
                _seconds(x.before),
                _seconds(x.after),
                f"{x.ratio:.3f}",
                interval,
                _verdict(x),
            )
        yield table


def _verdict(x: Difference) -> Text:
    if x.beyond_noise is None:
        return Text("one round only", style="dim")
    if not x.beyond_noise:
        return Text("within noise", style="dim")
    return Text("faster", style="green") if x.ratio < 1 else Text("slower", style="red")


def _table(title: str) -> Table:
    """Return an empty table that fits into 80 columns with the figures of this file."""
    return Table(title=Text(title), box=box.SIMPLE, title_justify="left", padding=(0, 1, 0, 0))


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 1e-3:
        return f"{1e6 * value:.0f} us"
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def _joules(estimate: dict[str, Any]) -> list[str]:
    if estimate["joules"] is None:
        return ["too short", ""]
    above = estimate["joules_above_idle"]
    return ["" if x is None else amount_text(x, "J") for x in (estimate["joules"], above)]


def _model(case: dict[str, Any]) -> str:
    side = case["image_size"]
    return f"{case['model']} ({case['precision']}, {side} x {side}, {case['classes']:,} classes)"


def _mebibytes(count: int | None) -> str:
    return "" if count is None else f"{count / _MIB:,.0f}"
