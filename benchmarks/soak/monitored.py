"""The `edgewf monitor` of a soak: its process, what it prints, and what it takes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

PAGE = os.sysconf("SC_PAGE_SIZE")
EDGEWF = (sys.executable, "-c", "from edgewf.cli import main; main()")
_LEAST_PIPE = 4096


@dataclass
class Life:
    """One process from start to end.

    Attributes:
        pid: its number.
        began: seconds since the epoch.
        printed: estimates on stdout.
        told: estimates that its status file told of last.
        log: (seconds since the epoch, line) of stderr.
        code: exit status; None while it runs.
    """

    pid: int
    began: float
    printed: list[dict[str, Any]] = field(default_factory=list)
    told: int = 0
    log: list[tuple[float, str]] = field(default_factory=list)
    code: int | None = None


class Monitored:
    """Starts, kills and measures the monitor.

    Args:
        arguments: of `edgewf monitor`, without the outputs.
        folder: takes the status file, the estimates, the store and what the alert hook was told.

    Attributes:
        lives: oldest first.
        status, output, store: the files of these options.
        alerts: takes a line for every message that the alert hook was given.
        metrics, dashboard: ports of these options.
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.status, self.output = folder / "status.json", folder / "estimates.jsonl"
        self.store, self.alerts = folder / "past.db", folder / "alerts.jsonl"
        self.alerts.touch()
        hook = folder / "hook"
        hook.write_text(f"#!/bin/sh\nexec cat >> {shlex.quote(str(self.alerts))}\n")
        hook.chmod(0o700)
        outputs = ["--json", "--output", str(self.output), "--status", str(self.status)]
        self.metrics, self.dashboard = free_ports(2)
        outputs += ["--store", str(self.store), "--metrics", str(self.metrics)]
        outputs += ["--dashboard", str(self.dashboard)]
        outputs += ["--alert-unhealthy", "5", "--alert-pause", "20", "--hook", str(hook)]
        self._command = [*EDGEWF, "monitor", *arguments, *outputs]
        self._reading = threading.Event()
        self._reading.set()
        self._threads: list[threading.Thread] = []
        self.lives: list[Life] = []

    @property
    def pid(self) -> int:
        """Number of the process that runs now."""
        return self.lives[-1].pid

    def start(self) -> None:
        """Start a process and the threads that read what it prints."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        life = Life(self._process.pid, time.time())
        self.lives.append(life)
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, _LEAST_PIPE)
        self._threads = [
            threading.Thread(target=self._read_estimates, args=[stdout, life], daemon=True),
            threading.Thread(target=_read_log, args=[stderr, life], daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def kill(self) -> None:
        """End the process without a warning."""
        self._end(signal.SIGKILL)

    def terminate(self) -> float:
        """End the process as systemd does, and return how many seconds it took."""
        began = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - began

    def stop(self) -> None:
        """End the process if there is one, however this run ended."""
        if self.lives and self.alive():
            self.kill()

    def alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def stop_reading(self) -> None:
        """Let stdout fill up: with blank lines, since estimates would take too long."""
        self._reading.clear()
        time.sleep(0.5)
        descriptor = os.open(f"/proc/{self.pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"\n")
        os.close(descriptor)

    def go_on_reading(self) -> None:
        """Read again."""
        self._reading.set()

    def sample(self) -> dict[str, int] | None:
        """Return resident bytes, threads and open files of the monitor; None if it is gone.

        `children` is the resident memory of the processes that it has started.
        """
        root = Path("/proc") / str(self.pid)
        try:
            children = (root / f"task/{self.pid}/children").read_text().split()
            return {
                "rss": _resident(root),
                "threads": len(list((root / "task").iterdir())),
                "files": len(list((root / "fd").iterdir())),
                "processes": len(children),
                "children": sum(_resident(Path("/proc") / child) for child in children),
            }
        except OSError:
            return None

    def _end(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self.lives[-1].code = self._process.wait()
        for thread in self._threads:
            thread.join()

    def _read_estimates(self, stdout: IO[str], life: Life) -> None:
        with stdout:
            for line in iter(stdout.readline, ""):
                if line.strip():
                    life.printed.append(json.loads(line))
                self._reading.wait()


def free_ports(count: int) -> list[int]:
    """Return some on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listening.getsockname()[1] for listening in sockets]


def _read_log(stderr: IO[str], life: Life) -> None:
    with stderr:
        for line in stderr:
            life.log.append((time.time(), line.rstrip()))


def _resident(process: Path) -> int:
    try:
        return int((process / "statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0
