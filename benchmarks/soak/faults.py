"""What goes wrong during a soak, one fault after another."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.soak.monitored import Monitored
from benchmarks.soak.network import Network


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong for a while.

    Attributes:
        name: as the report has it.
        begin, end: make it happen and stop it.
    """

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]


def faults(network: Network, monitored: Monitored) -> list[Fault]:
    """Return all but the kill, which `Monitored.kill` does once."""

    def network_is(**state: object) -> Callable[[], None]:
        return lambda: network.__dict__.update(state)

    def disk(full: bool) -> Callable[[], None]:
        # Every write that makes a file longer fails, as on a full disk, without a file system
        # of its own, which only root could mount.
        def set_limit() -> None:
            _, hard = resource.prlimit(monitored.pid, resource.RLIMIT_FSIZE)
            limit = 0 if full else hard
            resource.prlimit(monitored.pid, resource.RLIMIT_FSIZE, (limit, hard))

        return set_limit

    def send(number: signal.Signals) -> Callable[[], None]:
        return lambda: os.kill(monitored.pid, number)

    return [
        Fault("camera gone", network_is(cut=True), network_is(cut=False)),
        Fault("camera silent", network_is(stalled=True), network_is(stalled=False)),
        Fault("damaged packets", network_is(damage=0.2), network_is(damage=0.0)),
        Fault("disk full", disk(full=True), disk(full=False)),
        Fault("nobody reads stdout", monitored.stop_reading, monitored.go_on_reading),
        Fault("monitor gets no time", send(signal.SIGSTOP), send(signal.SIGCONT)),
    ]
