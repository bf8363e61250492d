"""Who looks at a monitor during a soak: Prometheus, a browser, and one that never reads."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field

_PATIENCE_S = 10.0
_READS = ("metrics", "api/state", "api/history?after=0", "frames/current.jpg")


@dataclass
class Onlookers:
    """They come to the ports of the metrics and of the dashboard.

    Attributes:
        metrics, dashboard: ports of this machine.
        answers: how often all went well.
        failures: what did not.
    """

    metrics: int
    dashboard: int
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    _idle: socket.socket | None = None

    def look(self) -> None:
        """Read everything once."""
        for what in _READS:
            port = self.metrics if what == "metrics" else self.dashboard
            url = f"http://127.0.0.1:{port}/{what}"
            try:
                with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
                    answer.read()
            except OSError as error:
                self.failures.append(f"{what}: {error}")
                return
        self.answers += 1

    def stare(self) -> None:
        """Ask for the events, in place of who asked before, and never read them."""
        self.leave()
        with suppress(OSError):
            self._idle = socket.create_connection(("127.0.0.1", self.dashboard), _PATIENCE_S)
            host = f"127.0.0.1:{self.dashboard}"
            self._idle.sendall(f"GET /api/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    def leave(self) -> None:
        """Close the connection of `stare`."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None
