"""Options of a monitor that is left to run: how much it may take, and how others look after it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgewf.listener import Listener

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_UNWELL = 1

SCHEDULE = ("duty_cycle", "every", "max_temperature")
SERVICE = ("status", "check")


def _check(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Answer a health probe and end; the command itself does not run."""
    if path is None or context.resilient_parsing:
        return
    from edgewf.status_file import probe

    well, words = probe(path)
    click.echo(words)
    context.exit(0 if well else EXIT_UNWELL)


def running_options(command: Command) -> Command:
    """Add the options of schedule and service."""
    options = [
        click.option(
            "--duty-cycle",
            type=click.FloatRange(0, 1, min_open=True),
            metavar="SHARE",
            help="Of the time that bursts may take.  [0.1; 1 for recordings]",
        ),
        click.option(
            "--every",
            type=click.FloatRange(0),
            default=0,
            metavar="SECONDS",
            help="At least between the starts of two bursts.",
        ),
        click.option(
            "--max-temperature",
            type=float,
            metavar="CELSIUS",
            help="Bursts wait from here.  [5 below throttling]",
        ),
        click.option(
            "--status",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Keep the state of this run in a file.",
        ),
        click.option(
            "--check",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_check,
            help="Say if the run that keeps FILE is well; exit with 0 or 1.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def service_listeners(status: Path | None) -> list[Listener]:
    """Return what reports the state of the run to systemd and to probes."""
    from edgewf.status_file import StatusFile
    from edgewf.systemd import ServiceNotifier

    return [ServiceNotifier(), *([] if status is None else [StatusFile(status)])]


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which `kill` and systemd send, end the run in the same orderly way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
