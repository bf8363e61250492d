"""What the device draws, from the sensors that it has: joules since a source was opened.

- Jetson: INA3221 monitors on the module's rails. With JetPack 5 and newer they are hwmon devices
  (Linux, Documentation/hwmon/ina3221.rst), with JetPack 4 iio devices of the driver ina3221x; the
  rails are listed under "Software-Based Power Consumption Modeling" in "Platform Power and
  Performance" of NVIDIA's Jetson Linux Developer Guide. The carrier board is in none of them.
  Where these files are not visible, as in a container, jetson-stats is asked if it is there.
- x86: running average power limit, Documentation/power/powercap/powercap.rst; most systems let
  only root read it.
- Other NVIDIA GPUs: NVML.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from edgewf.bench.nvml import Nvml
from edgewf.doctor.files import read

# Where one of these is measured, it feeds the others.
_INPUTS = ("VDD_IN", "POM_5V_IN")
# Unconnected channels, and the sum of the shunts' voltages.
_NO_RAIL = re.compile(r"^(NC)?$|sum of shunt", re.IGNORECASE)


class PowerSource(Protocol):
    """Something that knows what a part of the device draws.

    Attributes:
        name: what it covers, in words.
    """

    name: str

    def joules(self) -> float:
        """Return the energy since the source was opened."""


class Sampled:
    """Energy of something that only tells its power: the integral over the calls of `joules`."""

    def __init__(
        self, name: str, watts: Callable[[], float], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.name = name
        self._watts = watts
        self._clock = clock
        self._joules, self._last, self._when = 0.0, watts(), clock()

    def joules(self) -> float:
        now, watts = self._clock(), self._watts()
        self._joules += (now - self._when) * (watts + self._last) / 2
        self._last, self._when = watts, now
        return self._joules


class Counted:
    """Energy from a counter.

    Args:
        name: see `PowerSource`.
        counter: joules since some moment.
        range: at which the counter starts from 0 again; None if it never does.
    """

    def __init__(self, name: str, counter: Callable[[], float], range: float | None = None) -> None:
        self.name = name
        self._counter = counter
        self._range = range
        self._joules, self._last = 0.0, counter()

    def joules(self) -> float:
        now = self._counter()
        step = now - self._last
        if step < 0 and self._range is not None:
            step += self._range
        self._last = now
        self._joules += step
        return self._joules


def power_sources(root: Path = Path("/"), nvml: Nvml | None = None) -> list[PowerSource]:
    """Return the sources that can be read here and cover different parts.

    Args:
        root: where /sys is looked up.
        nvml: the GPU, None where there is no NVML.
    """
    rails = module_rails(root)
    if rails:
        total = [name for name in rails if name in _INPUTS] or list(rails)
        name = f"module, {' + '.join(total)}"
        return [Sampled(name, lambda: sum(rails[x]() for x in total))]
    by_service = _jetson_stats()
    if by_service is not None:
        return [by_service]
    sources: list[PowerSource] = [
        Counted(name, counter, limit) for name, counter, limit in _rapl(root)
    ]
    if nvml is not None:
        joules, watts = nvml.joules, nvml.watts
        if joules() is not None:
            sources.append(Counted("GPU", lambda: joules() or 0.0))
        elif watts() is not None:
            sources.append(Sampled("GPU", lambda: watts() or 0.0))
    return sources


def module_rails(root: Path) -> dict[str, Callable[[], float]]:
    """Return how to read each rail of a Jetson module, in watts, by its name."""
    rails: dict[str, Callable[[], float]] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read(chip / "name") != "ina3221":
            continue
        for label in sorted(chip.glob("in[123]_label")):
            number = label.name[2]
            files = chip / f"in{number}_input", chip / f"curr{number}_input"
            _add(rails, read(label), files, 1e-6)  # mV x mA
    for chip in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*")):
        for label in sorted(chip.glob("rail_name_[012]")):
            file = chip / f"in_power{label.name[-1]}_input"
            _add(rails, read(label), [file], 1e-3)  # mW
    return rails


def _jetson_stats() -> PowerSource | None:
    """Return the board's total by the service of jetson-stats; None where it does not run."""
    if find_spec("jtop") is None:
        return None
    service = import_module("jtop").jtop()
    try:
        service.start()
        return Sampled(
            "module, by jetson-stats", lambda: float(service.power["tot"]["power"]) / 1e3
        )
    except Exception:  # its own classes, for a service that is off, another version, no right
        return None


def _add(
    rails: dict[str, Callable[[], float]], name: str, files: Sequence[Path], unit: float
) -> None:
    """Add a rail whose files all hold numbers; their product in `unit` is the power."""
    if _NO_RAIL.search(name) or any(_number(path) is None for path in files):
        return

    def watts() -> float:
        product = unit
        for path in files:
            product *= _number(path) or 0  # a rail that is switched off cannot be read
        return product

    rails[name] = watts


def _rapl(root: Path) -> list[tuple[str, Callable[[], float], float]]:
    """Return name, counter and range of each package and its memory."""
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name, limit = read(zone / "name"), _number(zone / "max_energy_range_uj")
        if re.match(r"package-\d+$|dram$", name) and limit and _number(zone / "energy_uj"):
            counter = _microjoules(zone / "energy_uj")
            found.append(("memory" if name == "dram" else f"CPU {name}", counter, limit / 1e6))
    return found


def _microjoules(path: Path) -> Callable[[], float]:
    return lambda: (_number(path) or 0) / 1e6


def _number(path: Path) -> int | None:
    text = read(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None
