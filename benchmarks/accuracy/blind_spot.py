"""Whether estimates rise where the truth falls, over all pairs of corruptions and severities.

    python -m benchmarks.accuracy.blind_spot benchmarks/results/accuracy/held_out_*.csv

Reads what `benchmarks.accuracy.held_out` wrote. Where an objective selects no frame nothing adapts
and no label flips, so a count of flips calls the worst windows the best. Here an estimate is wrong
in this way if, from one window to another, the truth falls and the estimate rises, both by more
than noise explains.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgewf.bundle import write_text
from edgewf.commands.explaining import ExplainingCommand
from edgewf.estimators.interval import Z90

LOW = 20.0  # percent, below which a network is of no use


@dataclass(frozen=True)
class Cell:
    """A window under one corruption.

    Attributes:
        name: corruption and severity.
        truth, estimate: percent.
        truth_sd, estimate_sd: what noise there is in them, points.
    """

    name: str
    truth: float
    estimate: float
    truth_sd: float
    estimate_sd: float


@dataclass(frozen=True)
class Inversion:
    """Two cells of which the estimate says the opposite of the truth.

    Attributes:
        better, worse: by the truth; by the estimate it is the other way.
    """

    better: Cell
    worse: Cell

    @property
    def z(self) -> float:
        """Standard deviations by which both moved at least: 1.645 is the edge of 90 % intervals."""
        truth = math.hypot(self.better.truth_sd, self.worse.truth_sd)
        estimate = math.hypot(self.better.estimate_sd, self.worse.estimate_sd)
        return min(
            (self.better.truth - self.worse.truth) / truth,
            (self.worse.estimate - self.better.estimate) / estimate,
        )


def read_cells(path: Path, frames: int) -> list[Cell]:
    """Return the cells of single corruptions from windows of so many frames."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "corruptions"]
    found = []
    for row in rows:
        truth, estimate, sd = (float(row[k]) for k in ("truth", "estimate", "sd"))
        # One image more or less where all or none are right.
        variance = max(truth * (100 - truth), 100 * 100 / frames) / frames
        name = f"{row['shift']} {row['severity']}"
        found.append(Cell(name, truth, estimate, math.sqrt(variance), sd))
    return found


def inversions(cells: Sequence[Cell]) -> list[Inversion]:
    """Return the pairs in which the estimate rises as the truth falls, the worst first."""
    found = [
        Inversion(a, b)
        for a, b in itertools.permutations(cells, 2)
        if a.truth > b.truth and a.estimate < b.estimate
    ]
    return sorted(found, key=lambda x: x.z, reverse=True)


def summary(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return what the table shows of one network."""
    found = inversions(cells)
    low = [cell for cell in cells if cell.truth < LOW]
    return {
        "cells": len(cells),
        "pairs": len(cells) * (len(cells) - 1) // 2,
        "inversions": len(found),
        "beyond_noise": sum(x.z > Z90 for x in found),
        "worst": found[0] if found else None,
        "low": len(low),
        "highest_of_low": max(low, key=lambda x: x.estimate) if low else None,
    }


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return it as Markdown."""
    lines = [
        "| windows | cells | pairs | inverted | beyond noise | the worst | z "
        f"| truth below {LOW:.0f} % | highest estimate there |",
        "|---|---:|---:|---:|---:|---|---:|---:|---|",
    ]

    def said(cell: Cell) -> str:
        return f"{cell.name} ({cell.truth:.1f} %, estimate {cell.estimate:.1f} %)"

    for name, row in found.items():
        worst, high = row["worst"], row["highest_of_low"]
        pair = "" if worst is None else f"{said(worst.better)}; {said(worst.worse)}"
        z = "" if worst is None else f"{worst.z:.2f}"
        lines.append(
            f"| {name} | {row['cells']} | {row['pairs']} | {row['inversions']} "
            f"| {row['beyond_noise']} | {pair} | {z} | {row['low']} "
            f"| {'' if high is None else said(high)} |"
        )
    return lines


@click.command(cls=ExplainingCommand)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), default="benchmarks/results/accuracy/blind_spot.md"
)
def main(files: tuple[Path, ...], output: Path) -> None:
    """Print the table of FILES, CSV of held_out, and write it."""
    found = {}
    for path in files:
        settings = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["settings"]
        found[path.stem] = summary(read_cells(path, settings["window"]))
    lines = [
        *table(found),
        "",
        "Inverted: the truth falls from one cell to another and the estimate rises. Beyond noise: "
        f"both by more than {Z90:.3f} standard deviations, that of the truth by the number of "
        "frames, that of the estimate by its 90 % interval. "
        "`python -m benchmarks.accuracy.blind_spot`.",
    ]
    click.echo("\n".join(lines))
    write_text(output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
