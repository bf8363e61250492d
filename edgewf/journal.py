"""Log lines with a priority, for systemd's journal: a number in angle brackets, sd-daemon(3)."""

from __future__ import annotations

import os
from typing import IO

ERROR, WARNING, INFO = 3, 4, 6
"""Priorities of syslog(3)."""


def journal_prefix(priority: int, file: IO[str]) -> str:
    """Return "<4>" and the like where `file` goes to the journal, else nothing."""
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError):  # closed, or no file of the system
        return ""
    # Set by systemd to the device and inode of the stream, so that a redirection shows.
    journal = os.environ.get("JOURNAL_STREAM")
    return f"<{priority}>" if journal == f"{status.st_dev}:{status.st_ino}" else ""
