"""The state of a running monitor in a file, for health probes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from edgewf.bundle import write_text
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.health import Health
from edgewf.listener import Listener

STALE_S = 30.0
"""Age at which a state no longer speaks for a running monitor; it is written every 5 seconds."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class StatusFile(Listener):
    """Keeps the newest health and estimate in a JSON file, replaced as a whole each time.

    The keys are `health`, `estimate` (null before the first), and what `probe` tells its age by:
    `uptime`, in seconds of a clock that nobody sets, and `boot`.

    Args:
        path: the file; its folder must exist.

    Raises:
        EdgewfError: the folder does not exist, or later, the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise EdgewfError(f"cannot keep a status in {path}: no folder {path.parent}; make it")
        self._path = path
        self._estimate: Estimate | None = None

    def estimate(self, estimate: Estimate) -> None:
        self._estimate = estimate

    def health(self, health: Health) -> None:
        record = {
            "health": health.to_json(),
            "estimate": None if self._estimate is None else self._estimate.to_json(),
            "uptime": time.monotonic(),
            "boot": _boot(),
        }
        try:
            write_text(self._path, json.dumps(record) + "\n")
        except OSError as error:
            raise EdgewfError(
                f"cannot write to {self._path}: {error.strerror or error}; probes take the monitor "
                "for dead until there is room"
            ) from error

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


def probe(path: Path) -> tuple[bool, str]:
    """Return whether the monitor that keeps a status file is well, and a line that says why.

    Raises:
        EdgewfError: the file holds no status.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        health = Health.from_json(record["health"])
        age = time.monotonic() - record["uptime"] if record["boot"] == _boot() else None
    except FileNotFoundError:
        return False, f"no monitor keeps {path}: none runs, or it runs without --status {path}"
    except (ValueError, KeyError, TypeError) as error:
        raise EdgewfError(f"{path} is no status of a monitor: {error!r}; give that file") from error
    if age is None or age > STALE_S:
        when = "before the last boot" if age is None else f"{age:.0f} s ago"
        return False, f"the monitor was last heard of {when}"
    if health.problems:
        return False, "; ".join(health.problems)
    accuracy = (record["estimate"] or {}).get("accuracy")
    last = "" if accuracy is None else f", accuracy {accuracy:.1f} %"
    return True, f"well: {health.seen} frames, {health.bursts} estimates{last}"


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
