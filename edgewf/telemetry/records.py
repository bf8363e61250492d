"""Estimates as JSON Lines: one object a line (jsonlines.org)."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections import deque
from pathlib import Path
from typing import BinaryIO

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.listener import Listener

_MOST_WAITING = 10_000  # lines, a few megabytes


class JsonLines(Listener):
    """Writes `Estimate.to_json()` of every estimate as one line, at once.

    What a full disk does not take is kept and tried again, with every estimate and every report
    of health, and goes on in the middle of a line where it stopped there.

    Args:
        path: file to append to; None for stdout. A last line that was cut short, by a crash, is
            ended first, so that it spoils no other.

    Raises:
        EdgewfError: the file cannot be opened, or later, written; the message names it.
        BrokenPipeError: whoever read stdout is gone.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._waiting: deque[bytes] = deque()
        if path is None:
            return
        try:
            # Unbuffered: a line is one append, and nothing is left to fail when the file closes.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
            if _ends_inside_a_line(path):
                self._waiting.append(b"\n")
        except OSError as error:
            self.close()
            raise EdgewfError(
                f"cannot append to {path}: {error.strerror or error}; give a file in a folder "
                "that exists and may be written"
            ) from error

    def estimate(self, estimate: Estimate) -> None:
        line = json.dumps(estimate.to_json(), allow_nan=False) + "\n"
        if self._path is None:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        self._waiting.append(line.encode())
        if len(self._waiting) > _MOST_WAITING:
            del self._waiting[1]  # of the oldest, a part may be in the file
        self._write()

    def health(self, health: Health) -> None:
        if self._waiting:
            self._write()

    def close(self) -> None:
        if self._file is None:
            return
        try:
            if self._waiting:
                self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        assert self._file is not None
        try:
            while self._waiting:
                line = self._waiting[0]
                self._waiting[0] = line[self._file.write(line) :]
                if not self._waiting[0]:
                    self._waiting.popleft()
        except OSError as error:
            raise EdgewfError(
                f"cannot write to {self._path}: {error.strerror or error}; {len(self._waiting)} "
                "estimates wait to be written: make room"
            ) from error


def _ends_inside_a_line(path: str | Path) -> bool:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
