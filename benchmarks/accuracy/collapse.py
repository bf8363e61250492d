"""How often bursts are said to collapse, and what they cost in accuracy where they are.

    python -m benchmarks.accuracy.collapse --bundle BUNDLE --data DIR

on clean images, the 15 corruptions of ImageNet-C at each severity, and windows of few classes.
Bursts of up to 10 steps are judged by their end alone; longer ones stop when it happens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.accuracy import options
from benchmarks.accuracy.windows import of_kind, windows
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.burst import run_burst
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines.select import select_engine
from edgewf.flags import effective_classes, window_flags
from edgewf.shifts import SEVERITIES

_KINDS = ("corruptions", "few classes")


@click.command(cls=ExplainingCommand)
@options.BUNDLE
@options.DATA
@click.option("--output", type=click.Path(path_type=Path), default="benchmarks/results/phases")
@click.option("--window", default=512, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--steps", multiple=True, type=int, default=(5,), help="May be repeated.")
@click.option("--learning-rate", multiple=True, type=float, default=(0.005,), help="One a --steps.")
@options.severities((0, *SEVERITIES), least=0)
@options.ENGINE
@click.option("--name", default="collapse", show_default=True, help="Of the result files.")
def main(
    bundle: Path,
    data: Path,
    output: Path,
    window: int,
    batch_size: int,
    steps: tuple[int, ...],
    learning_rate: tuple[float, ...],
    severities: tuple[int, ...],
    engine_name: str,
    name: str,
) -> None:
    """Print a table and write it as Markdown and JSON."""
    if len(steps) != len(learning_rate):
        raise click.UsageError("give as many --learning-rate as --steps")
    loaded = Bundle.load(bundle)
    engine = select_engine(engine_name, loaded, None).engine
    chosen = [
        w for w in of_kind(windows(loaded, data, window, 1), *_KINDS) if w.cell[1] in severities
    ]
    rows: list[dict[str, Any]] = []
    for seen in track(chosen, "bursts"):
        frames = seen.images()
        for count, rate in zip(steps, learning_rate, strict=True):
            settings = loaded.manifest.burst.with_changes(
                window=window, batch_size=batch_size, steps=count, learning_rate=rate
            )
            burst = run_burst(engine, frames, settings)
            record = burst.record
            flags = window_flags(record, burst.selected_share, 0.0, False, burst.stopped)
            classes = [effective_classes(x.label) for x in (record.before, record.after)]
            rows.append(
                {
                    "steps": count,
                    "learning_rate": rate,
                    "kind": seen.kind,
                    "window": seen.name,
                    "kept": round(classes[1] / classes[0], 3),
                    "taken": len(record.steps),
                    "stopped": burst.stopped,
                    "flagged": "collapse" in flags,
                    "before": round(float(100 * (record.before.label == seen.labels).mean()), 1),
                    "after": round(float(100 * (record.after.label == seen.labels).mean()), 1),
                }
            )
    lines = [
        f"# Collapse: {loaded.manifest.model} on {data.name}",
        "",
        f"Bursts of batches of {batch_size} on windows of {window}, clean and under the 15 "
        "corruptions of ImageNet-C, and of few classes. Classes kept: the effective number of "
        "predicted classes after the burst over that before it, the least of all windows. Accuracy "
        "is the adapted network's, in percent, before the first step and after the last, over the "
        "windows that were flagged and over the others. "
        f"`python -m benchmarks.accuracy.collapse`; engine {engine.name}, {machine_line()}.",
        "",
        "| steps | learning rate | windows | | least classes kept | stopped | flagged "
        "| flagged: before, after | others: before, after |",
        "|---:|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for count, rate in zip(steps, learning_rate, strict=True):
        for kind in _KINDS:
            mine = [
                r
                for r in rows
                if (r["steps"], r["learning_rate"], r["kind"]) == (count, rate, kind)
            ]
            if not mine:
                continue
            lines.append(
                f"| {count} | {rate:g} | {len(mine)} | {kind} | {min(r['kept'] for r in mine):.2f} "
                f"| {sum(r['stopped'] for r in mine)} | {sum(r['flagged'] for r in mine)} "
                f"| {_accuracy([r for r in mine if r['flagged']])} "
                f"| {_accuracy([r for r in mine if not r['flagged']])} |"
            )
    output.mkdir(parents=True, exist_ok=True)
    stem = output / f"{name}_{loaded.manifest.model}_{data.name}"
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    record_ = {"machine": describe_machine(), "rows": rows}
    write_text(stem.with_suffix(".json"), json.dumps(record_) + "\n")
    click.echo("\n".join(lines))


def _accuracy(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    before, after = (sum(r[k] for r in rows) / len(rows) for k in ("before", "after"))
    return f"{before:.1f}, {after:.1f}"


if __name__ == "__main__":
    main()
