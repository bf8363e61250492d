"""Bursts on shifted windows of labelled images, each finished one kept so that runs resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from imagecorruptions import corrupt
from numpy.typing import NDArray
from rich.progress import track

from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.calibrate import load_window, measure
from edgewf.calibration import Point
from edgewf.engines import Engine, Images
from edgewf.images import labelled_images
from edgewf.settings import BurstSettings
from edgewf.shifts import SHIFTS, shift

Cell = tuple[str, int]


def halves(
    bundle: Bundle, data: Path, window: int, windows: int
) -> tuple[list[tuple[Images, NDArray[np.int64]]], tuple[Images, NDArray[np.int64]]]:
    """Split labelled images by file: windows to calibrate on, and one of others to be judged on."""
    images = labelled_images(data, bundle.labels)
    order = np.random.default_rng(0).permutation(len(images))
    half = len(order) // 2
    if half < windows * window:
        raise SystemExit(
            f"{data}: half of its {len(order)} images are fewer than {windows} windows of {window}"
        )
    starts = [*(i * window for i in range(windows)), half]
    *first, second = (
        load_window(bundle, [images[i] for i in order[start : start + window]]) for start in starts
    )
    return first, second


def shifted(images: Images, cell: Cell, seed: int) -> Images:
    """Apply one of edgewf's own shifts, or any other ImageNet-C corruption."""
    name, severity = cell
    if severity == 0:
        return images
    if name in SHIFTS:
        return shift(name, images, severity, seed=seed)
    np.random.seed(severity + 100 * seed)  # the package draws from the global generator
    return np.stack([corrupt(x, corruption_name=name, severity=severity) for x in images])


def measure_cells(
    engine: Engine,
    settings: BurstSettings,
    images: Images,
    labels: NDArray[np.int64],
    cells: Sequence[Cell],
    kept: Path,
    window: int,
) -> list[Point]:
    """Run a burst on every cell not yet in the file `kept`; return the points in order.

    `window` numbers the images and seeds their corruption.
    """
    header = json.dumps({"settings": settings.to_json(), "window": window}, sort_keys=True)
    lines = kept.read_text().splitlines() if kept.exists() else []
    if not lines or lines[0] != header:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(header + "\n")
        lines = []
    points = {p.key: p for p in (Point(**json.loads(line)) for line in lines[1:])}
    todo = [cell for cell in cells if (*cell, window) not in points]
    for cell in track(todo, description=kept.stem):
        burst = run_burst(engine, shifted(images, cell, window), settings)
        point = measure(*cell, window, burst, labels)
        points[point.key] = point
        with kept.open("a") as file:
            file.write(json.dumps(asdict(point)) + "\n")
    return [points[(*cell, window)] for cell in cells]


def errors_of(errors: NDArray[np.float64], cells: Sequence[Cell]) -> dict[str, float | str]:
    """Summarise the errors of an estimate, in points, one a cell."""
    worst = int(np.abs(errors).argmax())
    name, severity = cells[worst]
    return {
        "mae": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "worst": float(errors[worst]),
        "worst_cell": f"{name} {severity}",
    }
