"""Operating system, processor, memory and cameras, from Linux's own files."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from edgewf.doctor.files import read


def machine(root: Path) -> dict[str, Any]:
    """Describe the computer; memory is in bytes."""
    library, version = platform.libc_ver()
    return {
        "board": read(root / "proc/device-tree/model") or None,
        "system": os_name(read(root / "etc/os-release")),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "libc": f"{library} {version}".strip() or None,
        "python": platform.python_version(),
        "cpu": cpu_model(read(root / "proc/cpuinfo")),
        "cpus": os.cpu_count(),
        "memory": memory_total(read(root / "proc/meminfo")),
    }


def cameras(root: Path) -> list[dict[str, Any]]:
    """List the video devices in the order of their numbers; one camera may have several."""
    found = sorted(
        (root / "dev").glob("video[0-9]*"), key=lambda path: int(path.name.removeprefix("video"))
    )
    names = root / "sys/class/video4linux"
    return [
        {
            "device": f"/dev/{path.name}",
            "name": read(names / path.name / "name") or None,
            "readable": os.access(path, os.R_OK | os.W_OK),
        }
        for path in found
    ]


def os_name(os_release: str) -> str | None:
    """Return PRETTY_NAME of /etc/os-release."""
    return _first(r'^PRETTY_NAME="?([^"\n]+)', os_release)


def cpu_model(cpuinfo: str) -> str | None:
    """Return the processor's name from /proc/cpuinfo; ARM kernels do not give any."""
    return _first(r"^model name\s*:\s*(.+)$", cpuinfo)


def memory_total(meminfo: str) -> int | None:
    """Return bytes of memory from /proc/meminfo."""
    kibibytes = _first(r"^MemTotal:\s*(\d+) kB", meminfo)
    return None if kibibytes is None else 1024 * int(kibibytes)


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return None if match is None else match[1].strip()
