"""Options that the benchmarks of accuracy have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgewf.shifts import SEVERITIES

BUNDLE = click.option("--bundle", type=click.Path(path_type=Path), required=True)
DATA = click.option("--data", type=click.Path(path_type=Path), required=True)
OUTPUT = click.option(
    "--output", type=click.Path(path_type=Path), default="benchmarks/results/accuracy"
)
WORK = click.option("--work", type=click.Path(path_type=Path), default="build/accuracy")
CALIBRATIONS = click.option(
    "--windows", "calibrations", type=int, default=1, help="To calibrate on."
)
ENGINE = click.option("--engine", "engine_name", default="auto")
STEPS = click.option("--steps", type=int)
BATCH_SIZE = click.option("--batch-size", type=int)
WINDOW = click.option("--window", type=int)


def severities(default: Sequence[int], least: int = SEVERITIES[0]) -> Any:
    """Return a click option of severities of shifts, from `least` on."""
    kind = click.IntRange(least, SEVERITIES[-1])
    return click.option("--severity", "severities", type=kind, multiple=True, default=default)
