"""How far estimates are off under corruptions that the calibration never saw.

    python -m benchmarks.accuracy.held_out --bundle BUNDLE --data DIR

Splits the labelled images of DIR by file. On windows of the first half every estimator is fitted
to clean + 4 corruptions x 5 severities (what `edgewf calibrate` does); a window of the second half
is estimated under the 15 corruptions of ImageNet-C x 5 severities. Finished bursts are kept below
--output, so an interrupted run goes on.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from imagecorruptions import get_corruption_names

from benchmarks.accuracy.cells import Cell, errors_of, halves, measure_cells
from benchmarks.accuracy.figure import draw
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle
from edgewf.calibration import Point, fit_points
from edgewf.engines.select import select_engine
from edgewf.estimators import DEFAULT, NAMES
from edgewf.report import burst_text
from edgewf.shifts import SEVERITIES, calibration_shifts

CORRUPTIONS = get_corruption_names("common")
EVALUATION: list[Cell] = [(name, s) for name in CORRUPTIONS for s in SEVERITIES]
CLEAN: Cell = ("clean", 0)


def rows(calibration: list[Point], evaluation: list[Point], frames: int) -> list[dict[str, object]]:
    """Fit each estimator on `calibration` and judge it on `evaluation`; errors in points."""
    cells = [(p.shift, p.severity) for p in evaluation]
    raw = np.array([p.average_confidence - p.accuracy for p in evaluation])
    result: list[dict[str, object]] = [
        {"estimator": "average confidence, raw", **errors_of(raw, cells)}
    ]
    for name in NAMES:
        estimator = fit_points(name, calibration)
        scores = [asdict(p) for p in evaluation]
        truth = [p.accuracy for p in evaluation]
        errors = np.array([estimator(x) - y for x, y in zip(scores, truth, strict=True)])
        intervals = [estimator.interval(x, frames) for x in scores]
        held = [low <= y <= high for (low, high), y in zip(intervals, truth, strict=True)]
        row = {"estimator": name, **errors_of(errors, cells)}
        result.append({**row, "coverage": float(100 * np.mean(held)), "formula": str(estimator)})
    return result


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
@click.option("--windows", type=int, default=1, help="To calibrate on.")
@click.option("--engine", "engine_name", default="auto")
@click.option("--steps", type=int)
@click.option("--batch-size", type=int)
@click.option("--window", type=int)
@click.option("--source-samples", type=float)
@click.option("--learning-rate", type=float)
@click.option("--objective")
@click.option("--name", default="held_out", help="Of the result files.")
def main(
    bundle: Path,
    data: Path,
    output: Path,
    name: str,
    windows: int,
    engine_name: str,
    **burst: object,
) -> None:
    """Print the table and write it as Markdown, JSON and a picture."""
    loaded = Bundle.load(bundle)
    settings = loaded.manifest.burst.with_changes(**burst)
    engine = select_engine(engine_name, loaded, None).engine
    first, second = halves(loaded, data, settings.window, windows)
    folder = output / "accuracy"
    stem = f"{name}_{loaded.manifest.model}_{data.name}"
    calibration = [
        point
        for window, images in enumerate(first)
        for point in measure_cells(
            *(engine, settings, *images, calibration_shifts()),
            folder / f"{stem}.calibration{window}.jsonl",
            window,
        )
    ]
    clean, *evaluation = measure_cells(
        engine, settings, *second, [CLEAN, *EVALUATION], folder / f"{stem}.evaluation.jsonl", 0
    )
    estimator = fit_points(DEFAULT, calibration)
    table = rows(calibration, evaluation, settings.window)
    truth = [p.accuracy for p in evaluation]
    lines = [
        f"{loaded.manifest.model} on {data.name}: calibrated on {windows * settings.window} images "
        f"({len(calibration)} points), judged on {settings.window} others under the 15 corruptions "
        f"of ImageNet-C x 5 severities (true accuracy {min(truth):.1f} to {max(truth):.1f} %). "
        f"Burst: {burst_text(settings)}; engine {engine.name}.",
        "",
        "| estimator | MAE | bias | worst error | in cell | 90 % interval holds |",
        "|---|---:|---:|---:|---|---:|",
        *(
            f"| {r['estimator']} | {r['mae']:.2f} | {r['bias']:+.2f} | {r['worst']:+.1f} "
            f"| {r['worst_cell']} | " + (f"{r['coverage']:.0f} % |" if "coverage" in r else "|")
            for r in table
        ),
        "",
        f"Points of accuracy. {DEFAULT}: {estimator}. {machine_line()}.",
    ]
    (folder / f"{stem}.md").write_text("\n".join(lines) + "\n")
    draw([clean, *evaluation], estimator, settings.window, folder / f"{stem}.png")
    (folder / f"{stem}.json").write_text(
        json.dumps(
            {
                "machine": describe_machine(),
                "settings": settings.to_json(),
                "table": table,
                "evaluation": [asdict(p) for p in evaluation],
            },
            indent=1,
        )
        + "\n"
    )
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
