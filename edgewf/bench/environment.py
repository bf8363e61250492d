"""What a result was measured on, to stand beside its figures."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgewf.doctor.files import read
from edgewf.doctor.machine import machine
from edgewf.doctor.nvidia import nvidia

_PACKAGES = (
    "edgewf",
    "numpy",
    "opencv-python",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "pycuda",
)


def environment(root: Path = Path("/")) -> dict[str, Any]:
    """Describe computer, GPU and the versions of what is installed, as JSON values."""
    governor = read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "machine": {**machine(root), "governor": governor or None},
        "nvidia": nvidia(root),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def device_line(record: dict[str, Any]) -> str:
    """Return an `environment` in a line."""
    computer, gpus = record["machine"], record["nvidia"]["devices"]
    parts = [
        computer["board"] or computer["cpu"] or computer["architecture"],
        *(gpu["name"] for gpu in gpus),
        f"{computer['cpus']} cores",
        *([f"{computer['memory'] / 2**30:.0f} GiB"] if computer["memory"] else []),
        *(f"{name} {record['packages'][name]}" for name in record["packages"]),
    ]
    return ", ".join(parts)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
