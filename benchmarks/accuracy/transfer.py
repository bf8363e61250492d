"""An estimator fitted on one network, used on another.

    python -m benchmarks.accuracy.transfer --data DIR BUNDLE BUNDLE...

The windows are those of `benchmarks.accuracy.held_out`, whose finished bursts are taken if they
are there. What scores know of clean images (thresholds, the temperature) is of the first network
too: nobody has labels for the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.accuracy import options
from benchmarks.accuracy.bank import Bank, Seen, kept_in, points, references
from benchmarks.accuracy.errors import judge
from benchmarks.accuracy.windows import of_kind, windows
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.calibration import fit_points
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines.select import select_engine
from edgewf.estimators import DEFAULT, scores_of
from edgewf.report import burst_text

NAMES = (
    DEFAULT,
    "weighted-flips",
    "nuclear-norm",
    "nuclear-norm-tempered",
    "cot",
    "atc-confidence",
)


Errors = dict[str, dict[str, dict[str, Any]]]
"""Of one estimator: by the network fitted on, then by the one judged on."""


def transferred(
    seen: dict[str, tuple[list[Seen], list[Seen]]], names: Sequence[str], frames: int
) -> dict[str, Errors]:
    """Return how far each estimator is off.

    Args:
        seen: calibration windows and windows to judge on, by network.
        names: of the estimators.
        frames: in each window.
    """
    keys = sorted({key for name in names for key in scores_of(name)})
    found: dict[str, Errors] = {name: {} for name in names}
    for source, (calibration, _) in seen.items():
        known = references(calibration)
        fitted_to = points(calibration, known, keys)
        targets = {target: points(judged, known, keys) for target, (_, judged) in seen.items()}
        for name in names:
            estimator = fit_points(name, fitted_to)
            found[name][source] = {
                target: judge(estimator, judged, frames) for target, judged in targets.items()
            }
    return found


def table(name: str, found: Errors) -> list[str]:
    """Return mean absolute errors as Markdown, a row for each network fitted on."""
    lines = [
        f"| {name}, fitted on | {' | '.join(found)} |",
        "|---|" + "---:|" * len(found),
    ]
    lines += (
        f"| {source} | " + " | ".join(f"{x['mae']:.2f}" for x in row.values()) + " |"
        for source, row in found.items()
    )
    return lines


def abroad(found: Errors) -> float:
    """Return the mean absolute error over all pairs of different networks."""
    others = [x["mae"] for a, row in found.items() for b, x in row.items() if a != b]
    return float(np.mean(others))


@click.command(cls=ExplainingCommand)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.DATA
@options.OUTPUT
@options.WORK
@options.CALIBRATIONS
@options.ENGINE
@options.STEPS
@options.BATCH_SIZE
@options.WINDOW
def main(
    bundles: tuple[Path, ...],
    data: Path,
    output: Path,
    work: Path,
    calibrations: int,
    engine_name: str,
    **burst: object,
) -> None:
    """Print a table for each estimator and write them as Markdown and JSON."""
    seen = {}
    for path in bundles:
        bundle = Bundle.load(path)
        settings = bundle.manifest.burst.with_changes(**burst)
        engine = select_engine(engine_name, bundle, None).engine
        bank = Bank(kept_in(work, bundle, data, engine), engine, settings)
        chosen = windows(bundle, data, settings.window, calibrations)
        calibration, judged = (
            bank.look(of_kind(chosen, kind), f"{bundle.manifest.model}, {kind}")
            for kind in ("calibration", "corruptions")
        )
        seen[bundle.manifest.model] = calibration, [x for x in judged if x.window.cell[1] > 0]
    results = transferred(seen, NAMES, settings.window)
    lines = [
        f"# Fitted on one network, used on another: {data.name}",
        "",
        f"Mean absolute error in points over the 15 corruptions of ImageNet-C x 5 severities. "
        f"Burst: {burst_text(settings)}. `python -m benchmarks.accuracy.transfer`; "
        f"{machine_line()}.",
    ]
    for name, found in results.items():
        lines += ["", *table(name, found), "", f"Between different networks: {abroad(found):.2f}."]
    output.mkdir(parents=True, exist_ok=True)
    stem = output / f"transfer_{data.name}"
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    record = {"machine": describe_machine(), "settings": settings.to_json(), "tables": results}
    write_text(stem.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
