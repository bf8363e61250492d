"""How few steps suffice: the error of estimates against steps, learning rate, batch and window.

    python -m benchmarks.accuracy.short_bursts --bundle BUNDLE --data DIR --window 512 \
        --batch-size 64

One setting varies at a time. Unless it is the steps that vary, a burst goes through its window
once, whatever window and batch are. Every setting is calibrated as it is used. Scores of the
deployed network alone are fitted to and judged on the same windows, beside the time that their one
inference pass takes. Finished bursts are kept, as in `benchmarks.accuracy.held_out`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
from imagecorruptions import get_corruption_names

from benchmarks.accuracy import options
from benchmarks.accuracy.bank import Bank, inference_seconds, kept_in, points, references
from benchmarks.accuracy.errors import judge
from benchmarks.accuracy.windows import of_kind, windows
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.calibration import Point, fit_points
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines import Engine
from edgewf.engines.select import select_engine
from edgewf.errors import EdgewfError
from edgewf.estimators import DEFAULT, WITHOUT_STEPS
from edgewf.settings import BurstSettings

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

NAMES = (
    DEFAULT,
    WITHOUT_STEPS,
    "soft-agreement-tempered",
    "weighted-flips",
    "weighted-flips-batch",
)
BASELINES = ("nuclear-norm", "nuclear-norm-tempered", "cot", "atc-confidence")
VARIED: dict[str, tuple[float, ...]] = {
    "steps": (0, 1, 2, 4, 8, 30, 100),
    "learning_rate": (0.001, 0.005, 0.02, 0.05, 0.1),
    "batch_size": (8, 32, 64, 128),
    "window": (64, 128, 256, 512, 1024),
}
SHOWN = (*NAMES, *BASELINES)
FAMILIES = ("noise", "blur", "weather", "digital")
_TIMED = 3  # inference passes

Row = dict[str, Any]


class _Varied(click.ParamType):
    """A setting and its values."""

    name = "SETTING=N,N,..."

    def convert(self, value: Any, *_: Any) -> tuple[str, tuple[float, ...]]:
        setting, _, numbers = value.partition("=")
        if setting not in VARIED:
            self.fail(f"{setting!r} is none of {', '.join(VARIED)}")
        kind = float if setting == "learning_rate" else int
        try:
            return setting, tuple(kind(x) for x in numbers.split(","))
        except ValueError:
            self.fail(f"{numbers!r} are not numbers between commas")


def one_pass(settings: BurstSettings, **changes: Any) -> BurstSettings:
    """Return settings with changes, and the steps that go through the window once."""
    changed = settings.with_changes(**changes)
    return changed.with_changes(steps=changed.window // changed.batch_size)


def varied(start: BurstSettings, setting: str, value: float) -> BurstSettings:
    """Return settings with one changed; a window smaller than the batch is one batch."""
    if setting == "steps":
        return start.with_changes(steps=value)
    if setting == "window":
        return one_pass(start, window=value, batch_size=min(start.batch_size, int(value)))
    return one_pass(start, **{setting: value})


@click.command(cls=ExplainingCommand)
@options.BUNDLE
@options.DATA
@options.OUTPUT
@options.WORK
@click.option("--calibration-frames", default=512, show_default=True)
@options.severities((1, 3, 5))
@click.option("--vary", type=_Varied(), multiple=True, help="In place of all four.")
@options.BATCH_SIZE
@options.WINDOW
@options.ENGINE
@click.option("--name", default="short_bursts", help="Of the result files.")
def main(
    bundle: Path,
    data: Path,
    output: Path,
    work: Path,
    calibration_frames: int,
    severities: tuple[int, ...],
    vary: tuple[tuple[str, tuple[float, ...]], ...],
    engine_name: str,
    name: str,
    **burst: object,
) -> None:
    """Print a table of each setting that varies; write them as Markdown, JSON and a picture."""
    loaded = Bundle.load(bundle)
    engine = select_engine(engine_name, loaded, None).engine
    folder = kept_in(work, loaded, data, engine)
    start = one_pass(loaded.manifest.burst, **burst)
    tables: dict[str, list[Row]] = {}
    for setting, values in dict(vary or VARIED.items()).items():
        tables[setting] = []
        for value in values:
            bank = Bank(folder, engine, varied(start, setting, value))
            doing = f"{setting} {value:g}"
            row = _row(loaded, engine, data, bank, calibration_frames, severities, doing)
            tables[setting].append({"value": value, **row})
    lines = [
        f"# How few steps suffice: {loaded.manifest.model} on {data.name}",
        "",
        "Mean absolute error in points under the 15 corruptions of ImageNet-C at severities "
        f"{', '.join(map(str, severities))}; calibrated on {calibration_frames} images (a window, "
        f"if that is more), each setting by itself. Where they do not vary: windows of "
        f"{start.window}, batches of {start.batch_size}, learning rate {start.learning_rate:g}, "
        "and as many steps as go through the window once. Seconds: of a burst with the labels "
        f"before and after / of inference alone, which {', '.join(BASELINES)} need. "
        f"`python -m benchmarks.accuracy.short_bursts`; engine {engine.name}, {machine_line()}.",
    ]
    for setting, rows in tables.items():
        lines += ["", *_table(setting, rows)]
    output.mkdir(parents=True, exist_ok=True)
    stem = output / f"{name}_{loaded.manifest.model}_{data.name}"
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    record = {"machine": describe_machine(), "start": start.to_json(), "tables": tables}
    write_text(stem.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    _draw(tables, stem.with_suffix(".png"))
    click.echo("\n".join(lines))


def _row(
    bundle: Bundle,
    engine: Engine,
    data: Path,
    bank: Bank,
    calibration_frames: int,
    severities: tuple[int, ...],
    doing: str,
) -> Row:
    settings = bank.settings
    count = max(1, calibration_frames // settings.window)
    chosen = windows(bundle, data, settings.window, count)
    calibration = bank.look(of_kind(chosen, "calibration"), doing)
    known = references(calibration)
    shifts = [x for x in of_kind(chosen, "corruptions") if x.cell[1] in severities]
    judged = bank.look(shifts, doing)
    fitted_to, found = points(calibration, known), points(judged, known)

    def mae(name: str, found: list[Point]) -> float | None:
        try:
            estimator = fit_points(name, fitted_to)
        except EdgewfError:
            return None  # a score that never moves, such as flips from batch statistics in 0 steps
        return float(judge(estimator, found, settings.window)["mae"])

    errors = {name: mae(name, found) for name in SHOWN}
    families = {
        family: mae(DEFAULT, [p for p in found if p.shift in get_corruption_names(family)])
        for family in FAMILIES
    }
    images = shifts[0].source.images()
    inference = [inference_seconds(engine, images, settings.batch_size) for _ in range(_TIMED)]
    return {
        "settings": settings.to_json(),
        "seconds": float(np.median([sum(x.seconds) for x in judged])),
        "inference": float(np.median(inference)),
        "mae": errors,
        "families": families,
    }


def _table(setting: str, rows: Iterable[Row]) -> list[str]:
    heads = [*SHOWN, *(f"{DEFAULT}, {family}" for family in FAMILIES)]
    lines = [
        f"| {setting.replace('_', ' ')} | burst | seconds | {' | '.join(heads)} |",
        "|---:|---|---:|" + "---:|" * len(heads),
    ]
    for row in rows:
        found = [*(row["mae"][x] for x in SHOWN), *(row["families"][x] for x in FAMILIES)]
        errors = " | ".join("" if x is None else f"{x:.2f}" for x in found)
        burst = f"{row['settings']['steps']} x {row['settings']['batch_size']}"
        lines.append(
            f"| {row['value']:g} | {burst} | {row['seconds']:.2f} / "
            f"{row['inference']:.2f} | {errors} |"
        )
    return lines


def _draw(tables: dict[str, list[Row]], path: Path) -> None:
    """Plot the error against each setting, and against what an estimate takes; write a PNG."""
    costs = "window" in tables
    count = len(tables) + costs
    figure, grid = plt.subplots(
        1,
        count,
        figsize=(3 * count, 3.2),
        dpi=120,
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    panels = iter(grid[0])
    for setting, rows in tables.items():
        axes = next(panels)
        for name in SHOWN:
            _line(axes, name, [row["value"] for row in rows], rows)
        if setting == "steps":
            axes.set_xscale("symlog", linthresh=1)
        else:
            axes.set_xscale("log", base=10 if setting == "learning_rate" else 2)
        axes.set_xlabel(setting.replace("_", " "))
    if costs:
        axes, rows = next(panels), tables["window"]
        for name in SHOWN:
            key = "inference" if name in BASELINES else "seconds"
            _line(axes, name, [row[key] for row in rows], rows)
        axes.set_xscale("log")
        axes.set_xlabel("seconds, window varies")
    worst = max(row["mae"][DEFAULT] for rows in tables.values() for row in rows)
    grid[0][0].set(ylabel="mean absolute error (points)", ylim=(0, 1.5 * worst))
    for axes in grid[0]:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *grid[0][0].get_legend_handles_labels(),
        frameon=False,
        fontsize=8,
        loc="outside lower left",
        ncols=4,
    )
    figure.savefig(path)
    plt.close(figure)


def _line(axes: Axes, name: str, x: list[float], rows: list[Row]) -> None:
    style = "--" if name in BASELINES else ":" if name == WITHOUT_STEPS else "o-"
    errors = np.array([row["mae"][name] for row in rows], float)
    axes.plot(x, errors, style, ms=4, lw=1, label=name)


if __name__ == "__main__":
    main()
