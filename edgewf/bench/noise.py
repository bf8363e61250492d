"""Reasons to doubt timings: who else used the machine, and what its clocks did meanwhile."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewf.doctor.files import read

# Shares of all processors' time above which a run counts as noisy.
_FOREIGN = 0.05
_STEAL = 0.01
# (highest - lowest) / highest of a clock.
_CLOCK = 0.10
# How far the medians of a measurement may lie apart from round to round.
DRIFT = 0.05


@dataclass(frozen=True)
class CpuTime:
    """Seconds of all processors together since the machine was started.

    Attributes:
        total: of any kind, idle too.
        busy: that somebody computed.
        steal: that the hypervisor gave to other machines.
        own: of this process and its children that have ended.
    """

    total: float
    busy: float
    steal: float
    own: float

    @classmethod
    def now(cls, root: Path = Path("/")) -> CpuTime:
        """Read /proc/stat (Documentation/filesystems/proc.rst); zeros where it is missing."""
        first = read(root / "proc/stat").partition("\n")[0].split()[1:]
        ticks = [int(x) / os.sysconf("SC_CLK_TCK") for x in first]
        user, nice, system, idle, iowait, irq, softirq, steal = (ticks + [0.0] * 8)[:8]
        usage = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        busy = user + nice + system + irq + softirq
        return cls(
            total=busy + idle + iowait + steal,
            busy=busy,
            steal=steal,
            own=sum(x.ru_utime + x.ru_stime for x in usage),
        )

    def shares_until(self, later: CpuTime) -> tuple[float, float]:
        """Return the shares of the time since that other processes and the hypervisor took."""
        total = later.total - self.total
        if total <= 0:
            return 0.0, 0.0
        foreign = (later.busy - self.busy) - (later.own - self.own)
        return max(0.0, foreign) / total, (later.steal - self.steal) / total


def complaints(
    foreign: float, steal: float, load: float, conditions: dict[str, Any], drifts: dict[str, float]
) -> list[str]:
    """Return what makes the figures doubtful, as sentences.

    Args:
        foreign, steal: shares of the processors' time, see `CpuTime.shares_until`.
        load: average over the minute before the run.
        conditions: see `edgewf.bench.meter.conditions`.
        drifts: distance of a measurement's medians from round to round, by its name.
    """
    found = []
    if foreign > _FOREIGN:
        found.append(f"other processes used {100 * foreign:.0f} % of the processors")
    if steal > _STEAL:
        found.append(f"the hypervisor gave {100 * steal:.0f} % of the time to other machines")
    if load > 1 and foreign > _FOREIGN:
        found.append(f"the load average was {load:.1f} before the run")
    for key, name in (("cpu_mhz", "processor"), ("gpu_mhz", "GPU")):
        if conditions[key] is not None:
            low, high = conditions[key]
            if high - low > _CLOCK * high:
                found.append(f"the {name}'s clock went between {low:.0f} and {high:.0f} MHz")
    if conditions["throttled"]:
        found.append("the device was slowed down by heat or power")
    worst = max(drifts, key=lambda name: drifts[name], default=None)
    if worst is not None and drifts[worst] > DRIFT:
        found.append(f"rounds disagree by up to {100 * drifts[worst]:.0f} % ({worst})")
    return found
