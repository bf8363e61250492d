"""How few steps suffice: the error of estimates against steps, learning rate, batch and window.

    python -m benchmarks.accuracy.short_bursts --bundle BUNDLE --data DIR --steps 0,1,2,5,10,30

Every setting is calibrated as it is used. Finished bursts are kept, as in
`benchmarks.accuracy.held_out`.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np

from benchmarks.accuracy import options
from benchmarks.accuracy.bank import Bank, points, references
from benchmarks.accuracy.errors import judge
from benchmarks.accuracy.windows import of_kind, windows
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.calibration import fit_points
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines.select import select_engine
from edgewf.estimators import DEFAULT
from edgewf.settings import BurstSettings

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NAMES = (DEFAULT, "weighted-flips", "soft-agreement-tempered", "weighted-flips-batch")
BASELINES = ("nuclear-norm", "nuclear-norm-tempered", "atc-confidence", "cot")


class _Numbers(click.ParamType):
    """Numbers between commas."""

    name = "N,N,..."

    def convert(self, value: Any, *_: Any) -> tuple[float, ...]:
        return tuple(float(x) for x in value.split(","))


def numbers(option: str, default: str) -> Any:
    """Return a click option of numbers between commas."""
    return click.option(option, type=_Numbers(), default=default, show_default=True)


@click.command(cls=ExplainingCommand)
@options.BUNDLE
@options.DATA
@options.OUTPUT
@options.WORK
@click.option("--calibration-frames", default=1024, show_default=True)
@click.option("--severity", "severities", type=int, multiple=True, default=(1, 3, 5))
@numbers("--steps", "0,1,2,5,10,30,100")
@numbers("--learning-rate", "0.005")
@numbers("--batch-size", "64")
@numbers("--window", "512")
@options.ENGINE
@click.option("--name", default="short_bursts", help="Of the result files.")
def main(
    bundle: Path,
    data: Path,
    output: Path,
    work: Path,
    calibration_frames: int,
    severities: tuple[int, ...],
    steps: tuple[float, ...],
    learning_rate: tuple[float, ...],
    batch_size: tuple[float, ...],
    window: tuple[float, ...],
    engine_name: str,
    name: str,
) -> None:
    """Print a table of all combinations and write it as Markdown, JSON and a picture."""
    loaded = Bundle.load(bundle)
    engine = select_engine(engine_name, loaded, None).engine
    folder = work / f"{loaded.manifest.model}_{data.name}"
    rows = []
    for frames, batch, rate, count in itertools.product(window, batch_size, learning_rate, steps):
        settings = loaded.manifest.burst.with_changes(
            window=int(frames), batch_size=int(batch), learning_rate=rate, steps=int(count)
        )
        rows.append(
            _row(loaded, data, Bank(folder, engine, settings), calibration_frames, severities)
        )
    names = (*NAMES, *BASELINES)
    lines = [
        f"# How few steps suffice: {loaded.manifest.model} on {data.name}",
        "",
        f"Mean absolute error in points under the 15 corruptions of ImageNet-C at severities "
        f"{', '.join(map(str, severities))}; calibrated on {calibration_frames} images, each "
        f"setting by itself. `python -m benchmarks.accuracy.short_bursts`; {machine_line()}.",
        "",
        f"| window | batch | learning rate | steps | seconds | {' | '.join(names)} |",
        "|---:|---:|---:|---:|---:|" + "---:|" * len(names),
    ]
    for row in rows:
        s = row["settings"]
        errors = " | ".join(f"{row['mae'][x]:.2f}" for x in names)
        lines.append(
            f"| {s['window']} | {s['batch_size']} | {s['learning_rate']:g} | {s['steps']} "
            f"| {row['seconds']:.2f} | {errors} |"
        )
    output.mkdir(parents=True, exist_ok=True)
    stem = output / f"{name}_{loaded.manifest.model}_{data.name}"
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    write_text(
        stem.with_suffix(".json"),
        json.dumps({"machine": describe_machine(), "rows": rows}, indent=1) + "\n",
    )
    _draw(rows, stem.with_suffix(".png"))
    click.echo("\n".join(lines))


def _row(
    bundle: Bundle, data: Path, bank: Bank, calibration_frames: int, severities: tuple[int, ...]
) -> dict[str, Any]:
    settings: BurstSettings = bank.settings
    count = max(1, calibration_frames // settings.window)
    chosen = windows(bundle, data, settings.window, count)
    doing = f"{settings.window}/{settings.batch_size}, {settings.steps} steps"
    calibration = bank.look(of_kind(chosen, "calibration"), doing)
    known = references(calibration)
    judged = bank.look(
        (x for x in of_kind(chosen, "corruptions") if x.cell[1] in severities), doing
    )
    fitted_to, found = points(calibration, known), points(judged, known)
    mae = {
        name: judge(fit_points(name, fitted_to), found, settings.window)["mae"]
        for name in (*NAMES, *BASELINES)
    }
    seconds = float(np.median([sum(x.seconds) for x in judged]))
    return {"settings": settings.to_json(), "seconds": seconds, "mae": mae}


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot errors against what a burst takes, with the best baseline; write a PNG."""
    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=120, layout="constrained")
    for name in NAMES:
        axes.plot(
            [row["seconds"] for row in rows],
            [row["mae"][name] for row in rows],
            "o-",
            ms=4,
            label=name,
        )
    best = min(BASELINES, key=lambda name: np.mean([row["mae"][name] for row in rows]))
    level = float(np.mean([row["mae"][best] for row in rows]))
    axes.axhline(level, color="grey", ls="--", lw=1, label=f"{best}, no burst")
    axes.set(xlabel="seconds a burst", ylabel="mean absolute error (points)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
