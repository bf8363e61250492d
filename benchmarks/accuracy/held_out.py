"""How far estimates are off under corruptions that the calibration never saw.

    python -m benchmarks.accuracy.held_out --bundle BUNDLE --data DIR

Splits the labelled images of DIR by file into two windows. On the first, every feature of a burst
is mapped to accuracy by a monotone quadratic over clean + 4 corruptions x 5 severities (what
`edgewf calibrate` does); the second is corrupted in other ways and estimated. Finished bursts are
kept below --output, so an interrupted run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from benchmarks.accuracy.cells import Cell, halves, measure_cells
from benchmarks.accuracy.figure import draw
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle
from edgewf.calibration import Point, Quadratic
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.report import burst_text
from edgewf.shifts import calibration_shifts

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "contrast", "fog", "jpeg_compression")
SEVERITIES = (1, 3, 5)
EVALUATION: list[Cell] = [(name, s) for name in CORRUPTIONS for s in SEVERITIES]
CLEAN: Cell = ("clean", 0)

FEATURES: dict[str, tuple[Callable[[Point], float], bool]] = {
    "weighted flips from deployed labels": (lambda p: p.weighted_flips, False),
    "flips from deployed labels": (lambda p: p.flips, False),
    "weighted flips from batch-statistics labels (paper)": (
        lambda p: p.weighted_flips_batch,
        False,
    ),
    "flips from batch-statistics labels": (lambda p: p.flips_batch, False),
    "weighted zero-step disagreement": (lambda p: p.weighted_zero_step, False),
    "zero-step disagreement": (lambda p: p.zero_step, False),
    "average confidence, calibrated": (lambda p: p.average_confidence, True),
}


def rows(calibration: list[Point], evaluation: list[Point]) -> list[dict[str, object]]:
    """Fit each feature on `calibration` and judge it on `evaluation`; errors in points."""
    truth = np.array([p.accuracy for p in evaluation])
    raw = np.array([p.average_confidence for p in evaluation])
    result = [_row("average confidence, raw", raw - truth, evaluation)]
    for name, (feature, rising) in FEATURES.items():
        f = Quadratic.fit(
            [feature(p) for p in calibration], [p.accuracy for p in calibration], rising=rising
        )
        result.append(_row(name, np.array([f(feature(p)) for p in evaluation]) - truth, evaluation))
    return result


def _row(name: str, errors: np.ndarray, points: list[Point]) -> dict[str, object]:
    worst = int(np.abs(errors).argmax())
    return {
        "estimator": name,
        "mae": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "worst": float(errors[worst]),
        "worst_cell": f"{points[worst].shift} {points[worst].severity}",
    }


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
@click.option("--steps", type=int)
@click.option("--source-samples", type=float)
@click.option("--learning-rate", type=float)
@click.option("--objective")
@click.option("--name", default="held_out", help="Of the result files.")
def main(bundle: Path, data: Path, output: Path, name: str, **burst: object) -> None:
    """Print the table and write it as Markdown, JSON and a picture."""
    loaded = Bundle.load(bundle)
    settings = loaded.manifest.burst.with_changes(**burst)
    engine = OnnxRuntimeCPU(loaded)
    first, second = halves(loaded, data, settings.window)
    folder = output / "accuracy"
    stem = f"{name}_{loaded.manifest.model}_{data.name}"
    calibration = measure_cells(
        engine, settings, *first, calibration_shifts(), folder / f"{stem}.calibration.jsonl", 0
    )
    clean, *evaluation = measure_cells(
        engine, settings, *second, [CLEAN, *EVALUATION], folder / f"{stem}.evaluation.jsonl", 1
    )
    table = rows(calibration, evaluation)
    truth = [p.accuracy for p in evaluation]
    lines = [
        f"{loaded.manifest.model} on {data.name}: calibrated on {settings.window} images "
        f"({len(calibration)} points), judged on {settings.window} others under "
        f"{', '.join(CORRUPTIONS)} (severities {', '.join(map(str, SEVERITIES))}; true accuracy "
        f"{min(truth):.1f} to {max(truth):.1f} %). Burst: {burst_text(settings)}.",
        "",
        "| estimator | MAE | bias | worst error | in cell |",
        "|---|---:|---:|---:|---|",
        *(
            f"| {r['estimator']} | {r['mae']:.1f} | {r['bias']:+.1f} | {r['worst']:+.1f} "
            f"| {r['worst_cell']} |"
            for r in table
        ),
        "",
        f"Points of accuracy. {machine_line()}.",
    ]
    (folder / f"{stem}.md").write_text("\n".join(lines) + "\n")
    f = Quadratic.fit([p.weighted_flips for p in calibration], [p.accuracy for p in calibration])
    draw([clean, *evaluation], f, settings.window, folder / f"{stem}.png")
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
