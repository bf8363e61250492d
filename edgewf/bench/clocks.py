"""How fast processor and GPU run at this moment."""

from __future__ import annotations

import re
from pathlib import Path

from edgewf.bench.nvml import Nvml
from edgewf.doctor.files import read

# 17000000.gpu on Orin with JetPack 6, 17000000.ga10b with 5, 17000000.gv11b on Xavier,
# 57000000.gpu on Nano.
_TEGRA_GPU = re.compile(r"\.(gpu|g[avbp]\w+)$")


class Clocks:
    """Reads the clocks.

    Args:
        root: where /sys and /proc are looked up.
        nvml: the GPU, None where there is no NVML.
    """

    def __init__(self, root: Path = Path("/"), nvml: Nvml | None = None) -> None:
        cpus = root / "sys/devices/system/cpu"
        self._cpus = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._cpuinfo = root / "proc/cpuinfo"
        devices = sorted((root / "sys/class/devfreq").glob("*"))
        self._gpus = [x / "cur_freq" for x in devices if _TEGRA_GPU.search(x.name)]
        self._nvml = nvml

    def cpu(self) -> float | None:
        """Return the mean over all cores in MHz; None where Linux does not tell.

        Virtual machines show a nominal number that never changes, or none at all.
        """
        kilohertz = [int(text) for path in self._cpus if (text := read(path)).isdigit()]
        if kilohertz:
            return sum(kilohertz) / len(kilohertz) / 1e3
        megahertz = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", read(self._cpuinfo), re.MULTILINE)
        return sum(map(float, megahertz)) / len(megahertz) if megahertz else None

    def gpu(self) -> float | None:
        """Return the GPU's clock in MHz; None without one that tells."""
        for path in self._gpus:
            if (text := read(path)).isdigit():
                return int(text) / 1e6
        return None if self._nvml is None else self._nvml.megahertz()
