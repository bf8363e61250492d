"""What becomes of the errors of a command."""

from __future__ import annotations

import sys
from typing import Any

import click

from edgewf.errors import EdgewfError
from edgewf.journal import ERROR, journal_prefix

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class ExplainingCommand(click.Command):
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
