"""What several commands share: the options of a burst, and what they open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgewf.estimators import DEFAULT, UNKNOWN, known

if TYPE_CHECKING:
    from rich.console import Console

    from edgewf.bundle import Bundle
    from edgewf.calibration import Calibration
    from edgewf.settings import BurstSettings


Command = TypeVar("Command", bound=Callable[..., Any])

# As edgewf.settings has them, which would import NumPy for --help.
OBJECTIVES = ("tent", "eta", "eata", "rdumb", "sar")
ENGINES = ("auto", "tensorrt", "ort-tensorrt", "ort-cuda", "openvino", "onnxruntime")


def burst_options(command: Command) -> Command:
    """Add the options of a burst and of the engine that runs it."""
    options = [
        click.option(
            "--objective",
            type=click.Choice(OBJECTIVES),
            help="What the steps minimise, and on which samples.",
        ),
        click.option("--steps", type=click.IntRange(0), metavar="N", help="Steps of a burst."),
        click.option("--batch-size", type=click.IntRange(2), metavar="B", help="Frames a batch."),
        click.option("--window", type=click.IntRange(2), metavar="N", help="Frames an estimate."),
        click.option(
            "--source-samples",
            type=click.FloatRange(0),
            metavar="N",
            help="Samples that the running statistics count for in a batch.",
        ),
        click.option("--learning-rate", type=float, metavar="LR", help="Of the SGD steps."),
        click.option("--seed", type=click.IntRange(0), metavar="N", help="Of every random order."),
        click.option(
            "--engine",
            "engine_name",
            type=click.Choice(ENGINES),
            default=ENGINES[0],
            show_default=True,
            help="What runs the model; `edgewf doctor` says which can.",
        ),
        click.option(
            "--threads", type=click.IntRange(1), metavar="N", help="Threads of a CPU engine."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def estimator_option(command: Command) -> Command:
    """Add the choice of an estimator."""
    return click.option(
        "--estimator",
        "estimator_name",
        callback=_known_estimator,
        default=DEFAULT,
        show_default=True,
        metavar="NAME",
        help="What makes an accuracy of a burst: combined, weighted-flips, nuclear-norm, …",
    )(command)


def _known_estimator(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not known(value):
        raise click.BadParameter(UNKNOWN.format(value))
    return value


def open_bundle(
    folder: Path, burst: dict[str, Any]
) -> tuple[Bundle, Calibration | None, BurstSettings]:
    """Load a bundle, its calibration, and the burst that the options ask for."""
    from edgewf.bundle import Bundle
    from edgewf.calibration import Calibration

    bundle = Bundle.load(folder)
    calibration = Calibration.of(bundle)
    base = bundle.manifest.burst if calibration is None else calibration.settings
    if calibration is None:
        click.echo(
            f"edgewf: {folder} has no calibration: flips are shown, but no accuracy; "
            f"run `edgewf calibrate {folder} --data DIR` on labelled images",
            err=True,
        )
    settings = base.with_changes(**burst)
    if calibration is not None:
        calibration.check(bundle.manifest, settings)  # before an engine is built, which may last
    return bundle, calibration, settings


def stderr_console() -> Console:
    """Return the console for everything that is not machine-readable."""
    from rich.console import Console

    return Console(stderr=True)
