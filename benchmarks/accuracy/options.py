"""Options that the benchmarks of accuracy have in common."""

from __future__ import annotations

from pathlib import Path

import click

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
