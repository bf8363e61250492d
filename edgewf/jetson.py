"""Temperature, throttling and power mode, from Linux's own files.

Zones, trip points and cooling devices are documented in the kernel's
Documentation/driver-api/thermal/sysfs-api.rst, their names on a Jetson and the counters of
over-current events in "Platform Power and Performance" of NVIDIA's Jetson Linux Developer Guide.
Any other Linux machine is read in the same way; what it does not have is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgewf.doctor.files import output, read
from edgewf.doctor.nvidia import power_mode

# A fixed number, not a sensor.
_NO_SENSOR = ("PMIC-Die",)
# Zones of units that are powered off report -256 degrees, or fail to be read.
_COLDEST = -50.0
# cpufreq-cpu0 and thermal-cpufreq-0 by kernel; devfreq-17000000.gpu, cpu-throttle-alert and
# hot-surface-alert on Orin; cpu-balanced on Xavier; Processor with ACPI. A fan is none of them.
_SLOWS_DOWN = re.compile(r"cpufreq|devfreq|-alert$|balanced|^Processor$")
_COUNTERS = (
    "sys/class/hwmon/hwmon*/oc*_event_cnt",
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count",
)


@dataclass(frozen=True)
class BoardState:
    """What `Board.read` found.

    Attributes:
        temperature: of the hottest sensor, degrees Celsius; None without sensors.
        throttled: a device that cools by slowing down is at work, or a counter of throttling
            has risen since the reading before; None where nothing says.
        power_mode: name of the nvpmodel mode, its number where it has no name; None elsewhere.
    """

    temperature: float | None
    throttled: bool | None
    power_mode: str | None


class Board:
    """The computer that the monitor runs on.

    Args:
        root: where /sys, /var and /etc are looked up.

    Attributes:
        passive_trip: lowest temperature at which the kernel starts to slow something down,
            degrees Celsius; None if no zone says.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        thermal = root / "sys/class/thermal"
        zones = [x for x in thermal.glob("thermal_zone*") if read(x / "type") not in _NO_SENSOR]
        self._sensors = [zone / "temp" for zone in zones]
        self._coolers = [
            device / "cur_state"
            for device in thermal.glob("cooling_device*")
            if _SLOWS_DOWN.search(read(device / "type"))
        ]
        self._counters = [path for pattern in _COUNTERS for path in root.glob(pattern)]
        self._counted = self._count()
        self._nvpmodel = root / "var/lib/nvpmodel/status"
        self._modes = _mode_names(read(root / "etc/nvpmodel.conf"))
        # Old releases keep no status file; the command takes too long to ask it every time.
        asked = self._modes and not self._nvpmodel.exists()
        self._first_mode = power_mode(output("nvpmodel", "-q")) if asked else None
        trips = [
            number / 1000
            for zone in zones
            for kind in zone.glob("trip_point_*_type")
            if read(kind) == "passive"
            and (number := _number(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
            and number > 0  # disabled trips are at 0 or below
        ]
        self.passive_trip = min(trips, default=None)

    def read(self) -> BoardState:
        """Read all files; takes about a millisecond."""
        found = [x / 1000 for path in self._sensors if (x := _number(path)) is not None]
        return BoardState(
            temperature=max((x for x in found if x > _COLDEST), default=None),
            throttled=self._throttled(),
            power_mode=self._power_mode(),
        )

    def _throttled(self) -> bool | None:
        if not self._coolers and not self._counters:
            return None
        before, self._counted = self._counted, self._count()
        return self._counted > before or any((_number(path) or 0) > 0 for path in self._coolers)

    def _count(self) -> int:
        return sum(_number(path) or 0 for path in self._counters)

    def _power_mode(self) -> str | None:
        match = re.search(r"pmode:(\d+)", read(self._nvpmodel))
        if match is None:
            return self._first_mode
        return self._modes.get(int(match[1]), str(int(match[1])))


def _mode_names(conf: str) -> dict[int, str]:
    """Return the modes of /etc/nvpmodel.conf: "< POWER_MODEL ID=2 NAME=MODE_30W >"."""
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", conf, re.MULTILINE)
    return {int(number): name for number, name in found}


def _number(path: Path) -> int | None:
    text = read(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None
