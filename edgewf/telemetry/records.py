"""Estimates as JSON Lines: one object a line (jsonlines.org)."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.listener import Listener


class JsonLines(Listener):
    """Writes `Estimate.to_json()` of every estimate as one line, at once.

    Args:
        path: file to append to; None for stdout. A last line that was cut short, by a crash or a
            full disk, is ended first, so that it spoils no other.

    Raises:
        EdgewfError: the file cannot be opened, or later, written; the message names it.
        BrokenPipeError: whoever read stdout is gone.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        if path is None:
            return
        try:
            # Unbuffered: a line is one append, and nothing is left to fail when the file closes.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
            if _ends_inside_a_line(path):
                self._write(b"\n")
        except OSError as error:
            self.close()
            raise EdgewfError(
                f"cannot append to {path}: {error.strerror or error}; give a file in a folder "
                "that exists and may be written"
            ) from error

    def estimate(self, estimate: Estimate) -> None:
        line = json.dumps(estimate.to_json(), allow_nan=False) + "\n"
        if self._file is None:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        try:
            self._write(line.encode())
        except OSError as error:
            raise EdgewfError(
                f"cannot write to {self._path}: {error.strerror or error}; the estimates before "
                "are safe, the last line may be cut short"
            ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        while line:
            line = line[self._file.write(line) :]


def _ends_inside_a_line(path: str | Path) -> bool:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
