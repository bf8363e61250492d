"""Files and commands that may not be there."""

from __future__ import annotations

import subprocess
from pathlib import Path

_PATIENCE_S = 10.0


def read(path: Path) -> str:
    """Return a file's text without the NUL that ends device-tree strings; "" if unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def output(*command: str) -> str:
    """Return what a command prints, on either stream; "" if it does not run or does not end."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
