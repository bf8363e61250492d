"""How far estimates are off on images and shifts that the calibration never saw.

    python -m benchmarks.accuracy.held_out --bundle BUNDLE --data DIR

Splits the labelled images of DIR by file. On windows of the first half every estimator is fitted
to clean + 4 corruptions x 5 severities (what `edgewf calibrate` does). Windows of the second half
are estimated under the 15 corruptions of ImageNet-C x 5 severities, under pairs of them, and while
only few classes occur. Finished bursts are kept in build/accuracy, so an interrupted run goes on.
`--window 128 --batch-size 64 --name held_out_128` judges small windows, calibrated as such.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track

from benchmarks.accuracy import options
from benchmarks.accuracy.bank import (
    Bank,
    Seen,
    deployed_predictions,
    inference_seconds,
    kept_in,
    points,
    references,
)
from benchmarks.accuracy.errors import interval, judge
from benchmarks.accuracy.figure import draw, scatter
from benchmarks.accuracy.flagged import judged as judged_with_flags
from benchmarks.accuracy.flagged import summary as by_flag
from benchmarks.accuracy.flagged import table as flag_table
from benchmarks.accuracy.windows import (
    CELLS,
    CORRUPTIONS,
    Cell,
    Source,
    of_kind,
    shifted,
    stream,
    windows,
)
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.calibration import Point, fit_points
from edgewf.commands.explaining import ExplainingCommand
from edgewf.dropout import DropoutInference
from edgewf.engines import Engine
from edgewf.engines.select import select_engine
from edgewf.estimation import usual_classes
from edgewf.estimators import DEFAULT, QUADRATICS, STACKS, TEMPERED, scores_of
from edgewf.estimators.fitted import Fitted
from edgewf.estimators.interval import Z90
from edgewf.estimators.table import References, evaluate
from edgewf.flags import UsualClasses
from edgewf.report import burst_text
from edgewf.shifts import SEVERITIES

KINDS = ("corruptions", "pairs", "few classes")
NAMES = (*STACKS, *(name + suffix for suffix in ("", TEMPERED) for name in QUADRATICS))
_TIMED = 5  # windows


def stream_accuracy(
    engine: Engine, source: Source, cells: Sequence[Cell], frames: int, batch: int, kept: Path
) -> list[float] | None:
    """Return the accuracy on all images of the judged half in each cell, percent.

    None if there are fewer than twice as many as in a window, which would be half of them.
    """
    if len(source.labels) < 2 * frames:
        return None
    known: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    for cell in track(cells, "streams"):
        name = f"{cell[0]} {cell[1]}"
        if name in known:
            continue
        images = shifted(source.images(), cell, 0)
        right = deployed_predictions(engine, images, batch).label == source.labels
        known[name] = float(100 * right.mean())
        write_text(kept, json.dumps(known))
    return [known[f"{name} {severity}"] for name, severity in cells]


def seconds_of(
    names: Sequence[str], seen: Sequence[Seen], known: References, inference: float
) -> dict[str, float]:
    """Return what an estimate takes: the passes over the window that it needs, and its scores."""
    passes = np.median([x.seconds for x in seen], axis=0)
    found = {}
    for name in names:
        keys = scores_of(name)
        text = " ".join(keys)
        if "zero_step" in text:
            burst = float(passes[0])
        elif "flips" in text or "agreement" in text:
            burst = float(passes.sum())
        elif "aetta" in text:
            burst = float(passes[0]) - inference  # a pass with batch statistics
        else:
            burst = inference
        begin = time.perf_counter()
        for x in seen[:_TIMED]:
            evaluate(keys, x.record, known)
        found[name] = burst + (time.perf_counter() - begin) / _TIMED
    return found


def table(rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> list[str]:
    """Return the table of all estimators as Markdown."""
    others = [kind for kind in kinds if kind != "corruptions"]
    lines = [
        "| estimator | MAE | bias | worst error | in cell | 90 % interval holds | "
        + "".join(f"MAE, {kind} | " for kind in others)
        + "seconds |",
        "|---|---:|---:|---:|---|---:|" + "---:|" * len(others) + "---:|",
    ]
    for row in rows:
        main = row["corruptions"]
        holds = f"{main['holds']:.0f} %"
        if main["holds_stream"] is not None:
            holds += f" / {main['holds_stream']:.0f} %"
        lines.append(
            f"| {row['estimator']} | {main['mae']:.2f} | {main['bias']:+.2f} "
            f"| {main['worst']:+.1f} | {main['worst_cell']} | {holds} | "
            + "".join(f"{row[kind]['mae']:.2f} | " for kind in others)
            + f"{row['seconds']:.2f} |"
        )
    return lines


@click.command(cls=ExplainingCommand)
@options.BUNDLE
@options.DATA
@options.OUTPUT
@options.WORK
@options.CALIBRATIONS
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), default=KINDS)
@options.severities(SEVERITIES)
@options.ENGINE
@options.STEPS
@options.BATCH_SIZE
@options.WINDOW
@click.option("--source-samples", type=float)
@click.option("--learning-rate", type=float)
@click.option("--objective")
@click.option("--name", default="held_out", help="Of the result files.")
def main(
    bundle: Path,
    data: Path,
    output: Path,
    work: Path,
    name: str,
    calibrations: int,
    kinds: tuple[str, ...],
    severities: tuple[int, ...],
    engine_name: str,
    **burst: object,
) -> None:
    """Print the table and write it as Markdown, JSON, CSV and pictures."""
    kinds = tuple(kind for kind in KINDS if kind == "corruptions" or kind in kinds)
    loaded = Bundle.load(bundle)
    settings = loaded.manifest.burst.with_changes(**burst)
    engine = select_engine(engine_name, loaded, None).engine
    frames, batch = settings.window, settings.batch_size
    folder = kept_in(work, loaded, data, engine)
    bank = Bank(folder, engine, settings, DropoutInference.of(loaded))
    chosen = windows(loaded, data, frames, calibrations)
    calibration = bank.look(of_kind(chosen, "calibration"), "calibration")
    known = references(calibration)
    fitted_to = points(calibration, known)
    seen = {
        kind: bank.look((x for x in of_kind(chosen, kind) if x.cell[1] in (0, *severities)), kind)
        for kind in kinds
    }
    summed = {kind: points(found, known) for kind, found in seen.items()}
    clean = [p for p in summed["corruptions"] if p.severity == 0]
    judged = {**summed, "corruptions": [p for p in summed["corruptions"] if p.severity > 0]}
    cells = [cell for cell in CELLS if cell[1] in severities]
    half = stream(loaded, data)
    streams = stream_accuracy(engine, half, cells, frames, batch, folder / "streams.json")
    inference = inference_seconds(engine, chosen[-1].source.images(), batch)
    names = [name for name in NAMES if set(scores_of(name)) <= set(fitted_to[0].scores)]
    took = seconds_of(names, seen["corruptions"], known, inference)
    rows: list[dict[str, Any]] = []
    for estimator_name in track(names, "judging"):
        estimator = fit_points(estimator_name, fitted_to)
        usual = usual_classes(estimator, fitted_to, loaded.manifest.classes)
        row = {
            kind: judge(estimator, found, frames, streams if kind == "corruptions" else None, usual)
            for kind, found in judged.items()
        }
        rows.append(
            {"estimator": estimator_name, **row, "seconds": took[estimator_name]}
            | {"formula": str(estimator)}
        )
    estimator = fit_points(DEFAULT, fitted_to)
    usual = usual_classes(estimator, fitted_to, loaded.manifest.classes)
    flagged = by_flag(
        [
            x
            for kind, found in seen.items()
            for x in judged_with_flags(found, summed[kind], estimator, usual, frames)
        ]
    )
    truth = [p.accuracy for p in judged["corruptions"]]
    head = (
        f"{loaded.manifest.model} on {data.name}: calibrated on {calibrations * frames} images "
        f"({len(fitted_to)} points), judged on {frames} others under the {len(CORRUPTIONS)} "
        f"corruptions of ImageNet-C at severities {', '.join(map(str, severities))} (true "
        f"accuracy {min(truth):.1f} to {max(truth):.1f} %)"
    )
    if "pairs" in kinds:
        head += f", {len(judged['pairs'])} pairs of them"
    if "few classes" in kinds:
        head += f", {len(judged['few classes'])} windows of few classes"
    holds = "The interval's share is of the windows' own accuracies"
    if streams is not None:
        holds += ", and of the accuracies on all images of their half"
    lines = [
        f"{head}. Burst: {burst_text(settings)}; engine {engine.name}.",
        "",
        *table(rows, kinds),
        "",
        f"{DEFAULT}, all {sum(map(len, seen.values()))} windows, by what flags they carry:",
        "",
        *flag_table(flagged),
        "",
        f"Points of accuracy. {holds}. Seconds: of an estimate, with the passes over the window "
        f"that it needs. {DEFAULT}: {estimator}. Temperature {known.temperature:.2f}. "
        f"`python -m benchmarks.accuracy.held_out`; {machine_line()}.",
    ]
    output.mkdir(parents=True, exist_ok=True)
    stem = output / f"{name}_{loaded.manifest.model}_{data.name}"
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    shown = [*clean, *judged["corruptions"]]
    draw(shown, estimator, frames, usual, stem.with_suffix(".png"))
    scatter(judged, estimator, stem.with_name(f"{stem.name}_scatter.png"))
    record = {
        "machine": describe_machine(),
        "settings": settings.to_json(),
        "temperature": known.temperature,
        "table": rows,
        "flags": flagged,
    }
    write_text(stem.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    _write_cells(judged, estimator, frames, usual, stem.with_suffix(".csv"))
    click.echo("\n".join(lines))


def _write_cells(
    judged: dict[str, list[Point]],
    estimator: Fitted,
    frames: int,
    usual: UsualClasses,
    path: Path,
) -> None:
    """Write every judged window with its estimate and scores.

    sd: the standard deviation of the estimate in points, however few classes are predicted.
    """
    with path.open("w", newline="") as file:
        keys = list(next(iter(judged.values()))[0].scores)
        writer = csv.writer(file)
        head = ["kind", "shift", "severity", "truth", "estimate", "low", "high", "sd"]
        writer.writerow([*head, *keys])
        for kind, found in judged.items():
            for p in found:
                estimate = estimator(p.scores)
                low, high = estimator.interval(p.scores, frames)
                sd = max(high - estimate, estimate - low) / Z90
                shown = interval(estimator, p, frames, usual)
                values = [p.accuracy, estimate, *shown, sd, *p.scores.values()]
                writer.writerow([kind, p.shift, p.severity, *(f"{x:.5g}" for x in values)])


if __name__ == "__main__":
    main()
