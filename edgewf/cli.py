"""The command line: the commands under one name, and what becomes of their errors."""

from __future__ import annotations

import click

from edgewf import __version__
from edgewf.commands.analyze import analyze
from edgewf.commands.bench import bench
from edgewf.commands.build import build
from edgewf.commands.calibrate import calibrate
from edgewf.commands.doctor import doctor
from edgewf.commands.estimate import estimate
from edgewf.commands.explaining import ExplainingCommand
from edgewf.commands.export import export
from edgewf.commands.history import history
from edgewf.commands.inspect import inspect
from edgewf.commands.monitor import monitor


class _Group(ExplainingCommand, click.Group):
    """All commands; an error of theirs is explained here."""


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: edgewf export; edgewf monitor bundles/efficientnet_lite0 --source demo",
)
@click.version_option(__version__, prog_name="edgewf")
def main() -> None:
    """How accurate is the image classifier on this device right now, without labels?

    edgewf exports a classifier with only its BatchNorm scale and shift trainable, runs short
    bursts of entropy minimisation on live frames, looks how the predictions change, and turns
    that into an accuracy with an interval.
    """


for _command in (
    export,
    inspect,
    build,
    doctor,
    bench,
    calibrate,
    estimate,
    analyze,
    monitor,
    history,
):
    main.add_command(_command)
