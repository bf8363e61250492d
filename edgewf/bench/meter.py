"""What goes on in the machine while workers measure, watched from outside them."""

from __future__ import annotations

import bisect
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewf.bench.clocks import Clocks
from edgewf.bench.nvml import Nvml
from edgewf.bench.power import power_sources
from edgewf.doctor.files import read
from edgewf.jetson import Board

PERIOD_S = 0.1
_FEWEST = 10  # readings that a period needs for its energy to mean something


@dataclass(frozen=True)
class Reading:
    """The machine at one moment; None where it does not tell.

    Attributes:
        time: seconds of `time.perf_counter`, which is the same in all processes.
        joules: drawn since the meter was started, of all sources together.
        cpu_mhz, gpu_mhz: clocks.
        temperature: of the hottest sensor, degrees Celsius.
        throttled: something is slowed down by heat or power.
        available_bytes: memory that the system could still give.
        device_bytes: GPU memory in use, by anybody; NVML only.
    """

    time: float
    joules: float | None
    cpu_mhz: float | None
    gpu_mhz: float | None
    temperature: float | None
    throttled: bool | None
    available_bytes: int | None
    device_bytes: int | None


class Meter:
    """Takes readings in a thread of its own from `with` to its end.

    Attributes:
        sources: what the energy covers; empty where there is no sensor.
        readings: oldest first.
        power_mode: of a Jetson.
    """

    def __init__(self, root: Path = Path("/"), nvml: Nvml | None = None) -> None:
        self._nvml = nvml
        self._board = Board(root)
        self._clocks = Clocks(root, nvml)
        self._power = power_sources(root, nvml)
        self._meminfo = root / "proc/meminfo"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sources = tuple(source.name for source in self._power)
        self.power_mode = self._board.read().power_mode
        self.readings: list[Reading] = []

    def __enter__(self) -> Meter:
        self.readings.append(self._read())
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        self.readings.append(self._read())

    def between(self, begin: float, end: float) -> list[Reading]:
        """Return the readings of a period."""
        times = [reading.time for reading in self.readings]
        return self.readings[bisect.bisect_left(times, begin) : bisect.bisect_right(times, end)]

    def energy(self, begin: float, end: float) -> float | None:
        """Return the joules of a period; None without a sensor, or if it was too short."""
        inside = self.between(begin, end)
        if len(inside) < _FEWEST:
            return None
        first, last = inside[0], inside[-1]
        if first.joules is None or last.joules is None:
            return None
        # Readings do not fall on its ends.
        return (last.joules - first.joules) * (end - begin) / (last.time - first.time)

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            self.readings.append(self._read())

    def _read(self) -> Reading:
        state, nvml = self._board.read(), self._nvml
        heat = [state.temperature, None if nvml is None else nvml.temperature()]
        slowed = [state.throttled, None if nvml is None else nvml.throttled()]
        return Reading(
            time=time.perf_counter(),
            joules=sum(x.joules() for x in self._power) if self._power else None,
            cpu_mhz=self._clocks.cpu(),
            gpu_mhz=self._clocks.gpu(),
            temperature=max((x for x in heat if x is not None), default=None),
            throttled=any(slowed) if any(x is not None for x in slowed) else None,
            available_bytes=_available(read(self._meminfo)),
            device_bytes=None if nvml is None else nvml.used_bytes(),
        )


def conditions(readings: Sequence[Reading]) -> dict[str, Any]:
    """Return the extremes of some readings as JSON values, `throttled` if ever."""

    def extremes(values: list[float | None]) -> list[float] | None:
        known = [x for x in values if x is not None]
        return [min(known), max(known)] if known else None

    slowed = [x.throttled for x in readings if x.throttled is not None]
    return {
        "cpu_mhz": extremes([x.cpu_mhz for x in readings]),
        "gpu_mhz": extremes([x.gpu_mhz for x in readings]),
        "temperature": extremes([x.temperature for x in readings]),
        "throttled": any(slowed) if slowed else None,
    }


def _available(meminfo: str) -> int | None:
    match = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo, re.MULTILINE)
    return None if match is None else 1024 * int(match[1])
