"""Where the two phases of long bursts meet, on shifted images.

    python -m benchmarks.accuracy.phases --bundle BUNDLE --data DIR --cell speckle_noise-3

BUNDLE is calibrated on images of the first half, as `edgewf calibrate --data DIR --windows 2` does
for 1,024 of 5,000; windows come from the second half, as in `benchmarks.accuracy.held_out`.
`--images FOLDER` saves them in class folders, for `edgewf analyze FOLDER/CELL --labelled`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cv2
from rich.progress import track

from benchmarks.accuracy import options
from benchmarks.accuracy.windows import CELLS, Cell, Window, of_kind, windows
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines import Images
from edgewf.engines.select import select_engine
from edgewf.phases.centroids import Centroids
from edgewf.phases.plot import draw
from edgewf.phases.trajectory import Trajectory, follow

_USUAL = (1, 3, 5)  # severities


def _cell(context: click.Context, _: click.Parameter, names: tuple[str, ...]) -> list[Cell]:
    found = [next((c for c in CELLS if f"{c[0]}-{c[1]}" == name), None) for name in names]
    if None in found:
        raise click.BadParameter("a corruption of ImageNet-C and its severity, as in fog-3")
    return [c for c in found if c is not None] or [c for c in CELLS if c[1] in _USUAL]


@click.command(cls=ExplainingCommand)
@options.BUNDLE
@options.DATA
@click.option("--output", type=click.Path(path_type=Path), default="benchmarks/results/phases")
@click.option("--cell", "cells", multiple=True, callback=_cell, help="May be repeated.")
@click.option("--window", default=512, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--steps", default=300, show_default=True)
@click.option("--learning-rate", default=0.1, show_default=True)
@click.option("--picture", "pictures", multiple=True, help="Of a cell; may be repeated.")
@click.option("--images", type=click.Path(path_type=Path), help="Save the windows there.")
@options.ENGINE
def main(
    bundle: Path,
    data: Path,
    output: Path,
    cells: list[Cell],
    window: int,
    batch_size: int,
    steps: int,
    learning_rate: float,
    pictures: tuple[str, ...],
    images: Path | None,
    engine_name: str,
) -> None:
    """Print a table of the phases and write it as Markdown and JSON."""
    loaded = Bundle.load(bundle)
    centroids = Centroids.of(loaded)
    if centroids is None:
        raise click.UsageError(f"{bundle} has no centroids: run `edgewf calibrate`")
    settings = loaded.manifest.burst.with_changes(
        window=window, batch_size=batch_size, steps=steps, learning_rate=learning_rate
    )
    engine = select_engine(engine_name, loaded, None).engine
    found = of_kind(windows(loaded, data, window, 1), "corruptions")
    chosen = [seen for seen in found if seen.cell in cells]
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    for seen in track(chosen, "following"):
        name = f"{seen.cell[0]}-{seen.cell[1]}"
        frames = seen.images()
        if images is not None:
            _save(seen, frames, images / name, loaded)
        trajectory = follow(engine, frames, settings, centroids, seen.labels)
        rows.append((name, trajectory))
        if name in pictures:
            title = f"{loaded.manifest.model}, {name}, learning rate {learning_rate:g}"
            draw(trajectory, output / f"{loaded.manifest.model}_{name}.png", title)
    stem = output / f"phases_{loaded.manifest.model}_{data.name}"
    lines = [
        f"# Phases of long bursts: {loaded.manifest.model} on {data.name}",
        "",
        f"{steps} steps of {batch_size} on windows of {window}, learning rate {learning_rate:g}; "
        "percent of the window that the network gets right: deployed, with batch statistics "
        "before the first step, at the turn of the embeddings, at its best and at the end. "
        f"`python -m benchmarks.accuracy.phases`; engine {engine.name}, {machine_line()}.",
        "",
        "| shift | deployed | step 0 | turn | at the turn | best | best step | end | collapse |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(name, trajectory) for name, trajectory in rows),
    ]
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    record = {
        "machine": describe_machine(),
        "settings": settings.to_json(),
        "rows": {name: _columns(trajectory) for name, trajectory in rows},
    }
    write_text(stem.with_suffix(".json"), json.dumps(record) + "\n")
    click.echo("\n".join(lines))


def _row(name: str, found: Trajectory) -> str:
    looks = {look.step: look for look in found.looks}
    best = max(found.looks, key=lambda look: look.accuracy or 0.0)
    turn = "" if found.turn is None else f"{looks[found.turn].accuracy:.1f}"
    shown = ("" if step is None else str(step) for step in (found.turn, found.collapse))
    at, collapse = shown
    return (
        f"| {name} | {found.deployed_accuracy:.1f} | {found.looks[0].accuracy:.1f} | {at} | {turn} "
        f"| {best.accuracy:.1f} | {best.step} | {found.looks[-1].accuracy:.1f} | {collapse} |"
    )


def _save(window: Window, frames: Images, folder: Path, bundle: Bundle) -> None:
    for i, (frame, label) in enumerate(zip(frames, window.labels, strict=True)):
        path = folder / bundle.labels[label].name / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def _columns(found: Trajectory) -> dict[str, Any]:
    record = found.to_json()
    looks = record.pop("looks")
    return {
        **record,
        "looks": {key: [round(look[key], 3) for look in looks] for key in looks[0]},
    }


if __name__ == "__main__":
    main()
