"""GPU, driver, CUDA, and on a Jetson its L4T, JetPack and power mode.

nvidia-smi is not asked: Jetson with JetPack 5 and 6 has none, or one that shows little.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewf.doctor.files import output, read
from edgewf.engines.cuda_devices import NoCudaError, cuda_driver

# Major version of L4T (Jetson Linux) to that of JetPack.
_JETPACK = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}


def nvidia(root: Path) -> dict[str, Any]:
    """Describe the GPUs; `problem` says why CUDA cannot be used, `cuda` is the driver's."""
    l4t = l4t_version(read(root / "etc/nv_tegra_release"))
    facts: dict[str, Any] = {
        "driver": driver_version(read(root / "proc/driver/nvidia/version")),
        "cuda": None,
        "devices": [],
        "problem": None,
        "jetson": l4t is not None or (root / "sys/module/tegra_fuse").exists(),
        "l4t": l4t,
        "jetpack": jetpack_version(l4t, read(root / "var/lib/dpkg/status")),
        "power_mode": power_mode(output("nvpmodel", "-q")),
    }
    try:
        driver = cuda_driver()
    except NoCudaError as error:
        return facts | {"problem": error.what}
    return facts | {"cuda": driver.cuda, "devices": [asdict(x) for x in driver.devices]}


def driver_version(text: str) -> str | None:
    """Return the kernel module's version from /proc/driver/nvidia/version.

    The first line is "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Wed Jan ..." or
    "... Open Kernel Module for aarch64  540.4.0  Release Build ...".
    """
    match = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text + "\n", re.MULTILINE)
    return None if match is None else match[1]


def l4t_version(text: str) -> str | None:
    """Return "36.4.3" from "# R36 (release), REVISION: 4.3, ..." of /etc/nv_tegra_release."""
    match = re.search(r"^# R(\d+) \(\w+\), REVISION: ([\d.]+)", text)
    return None if match is None else f"{match[1]}.{match[2]}"


def jetpack_version(l4t: str | None, dpkg_status: str) -> str | None:
    """Return JetPack's version: of its package, else only the major one that goes with L4T.

    Args:
        l4t: such as "36.4.3"; None where this is no Jetson.
        dpkg_status: text of /var/lib/dpkg/status; images without the package
            nvidia-jetpack are common.
    """
    if l4t is None:
        return None
    package = re.search(
        r"^Package: nvidia-jetpack\n(?:[^\n]+\n)*?Version: ([\d.]+)", dpkg_status, re.MULTILINE
    )
    return _JETPACK.get(l4t.split(".")[0]) if package is None else package[1]


def power_mode(text: str) -> str | None:
    """Return "MAXN_SUPER" from what `nvpmodel -q` prints: warnings, the mode, its number."""
    match = re.search(r"^NV Power Mode:\s*(\S+)", text, re.MULTILINE)
    return None if match is None else match[1]
