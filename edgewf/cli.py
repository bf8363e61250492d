"""The command line: the commands under one name, and what becomes of their errors."""

from __future__ import annotations

import sys
from typing import Any

import click

from edgewf import __version__
from edgewf.commands.analyze import analyze
from edgewf.commands.bench import bench
from edgewf.commands.build import build
from edgewf.commands.calibrate import calibrate
from edgewf.commands.doctor import doctor
from edgewf.commands.estimate import estimate
from edgewf.commands.export import export
from edgewf.commands.history import history
from edgewf.commands.inspect import inspect
from edgewf.commands.monitor import monitor
from edgewf.errors import EdgewfError
from edgewf.journal import ERROR, journal_prefix

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class _Group(click.Group):
    """Turns what a user can mend into one line on stderr and exit status 2."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except EdgewfError as error:
            _complain(str(error))
            context.exit(EXIT_USAGE)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of stdout has gone
        except OSError as error:
            _complain(f"{error.filename or 'input or output'}: {error.strerror}")
            context.exit(EXIT_USAGE)
        except KeyboardInterrupt as interrupt:
            click.echo(": ".join(["edgewf: interrupted", *map(str, interrupt.args)]), err=True)
            context.exit(EXIT_INTERRUPTED)


def _complain(what: str) -> None:
    click.echo(f"{journal_prefix(ERROR, sys.stderr)}edgewf: {what}", err=True)


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
