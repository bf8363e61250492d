"""What systemd receives, on a socket and a pipe like its own."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgewf.journal import ERROR, WARNING, journal_prefix
from edgewf.systemd import ServiceNotifier
from tests.states import WELL


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The socket that NOTIFY_SOCKET names, as a file or in the abstract name space."""
    path = str(tmp_path / "notify")
    address = path if request.param == "path" else f"\0{path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        yield server


def received(server: socket.socket) -> list[str]:
    return server.recv(4096).decode().split("\n")


def test_systemd_hears_of_start_life_and_end(systemd: socket.socket) -> None:
    notifier = ServiceNotifier()
    notifier.health(WELL)
    assert received(systemd) == ["READY=1", "WATCHDOG=1", "STATUS=1 estimates, 260 frames"]
    notifier.health(replace(WELL, problems=("the picture is black", "two\nlines")))
    assert received(systemd) == ["WATCHDOG=1", "STATUS=the picture is black; two lines"]
    notifier.close()
    assert received(systemd) == ["STOPPING=1"]


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = ServiceNotifier()
    notifier.health(WELL)
    notifier.close()


SCRIPT = """
import os, sys
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
from rich.console import Console
from dataclasses import replace
from edgewf.telemetry.display import PlainDisplay, Session
from tests.states import ESTIMATE, WELL
display = PlainDisplay(Session("a model", "demo", None, 250), Console(file=sys.stderr))
display.health(replace(WELL, problems=("it is hot",)))
display.estimate(ESTIMATE)
"""


def test_lines_for_the_journal_carry_their_priority() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, text=True, timeout=60, check=True
    )
    assert [line[:12] for line in done.stderr.splitlines()] == [
        "<6>watching ",
        "<4>problem: ",
        "<6>2026-09-2",
    ]


def test_a_redirected_stream_is_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "log", "w") as log, open(tmp_path / "other", "w") as other:
        status = os.fstat(log.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert journal_prefix(ERROR, log) == "<3>"
        assert journal_prefix(WARNING, other) == ""
    assert journal_prefix(WARNING, io.StringIO()) == ""
    monkeypatch.delenv("JOURNAL_STREAM")
    assert journal_prefix(WARNING, sys.__stderr__ or sys.stderr) == ""
