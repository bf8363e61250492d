"""What a result was measured on, to stand beside the numbers."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("edgewf", "numpy", "onnxruntime", "openvino", "opencv-python", "torch")


def describe_machine() -> dict[str, str]:
    """Return processor, cores that this process may use, memory, system and versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if "name" in x]
        cpu = names[0] if names else cpu
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{pages / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        **found,
    }


def machine_line() -> str:
    """Return the description in one line of Markdown."""
    facts = describe_machine()
    versions = ", ".join(f"{k} {facts[k]}" for k in ("python", *PACKAGES))
    cores = "1 core" if facts["cores"] == "1" else f"{facts['cores']} cores"
    return f"{facts['cpu']}, {cores}, {facts['memory']}; {versions}"
