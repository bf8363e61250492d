"""Word to systemd that the service is up and alive.

The protocol is small enough to be spoken directly: sd_notify(3) is datagrams of assignments to a
socket.
"""

from __future__ import annotations

import os
import socket

from edgewf.health import Health
from edgewf.listener import Listener


class ServiceNotifier(Listener):
    """Tells systemd that the monitor is up, alive, and how it does; without systemd, nothing.

    The watchdog is fed with every report of health, so it bites when the monitor hangs, and not
    when a camera is gone: a restart does not mend a camera.
    """

    def __init__(self) -> None:
        # An abstract address is written with "@" and begins with a NUL byte.
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._ready = False

    def health(self, health: Health) -> None:
        if health.problems:
            text = "; ".join(health.problems)
        else:
            text = f"{health.bursts} estimates, {health.seen} frames"
        lines = ["WATCHDOG=1", f"STATUS={' '.join(text.split())}"]
        if not self._ready:
            self._ready = True
            lines.insert(0, "READY=1")
        self._send(lines)

    def close(self) -> None:
        self._send(["STOPPING=1"])

    def _send(self, lines: list[str]) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
            client.sendto("\n".join(lines).encode(), self._address)
