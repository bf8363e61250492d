"""How a running monitor is doing, as listeners, stores and probes see it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgewf.stream.health import SourceHealth


@dataclass(frozen=True)
class Health:
    """State of a monitor at one moment. `to_json` is the stable public form.

    Attributes:
        time: when this was put together, seconds since the epoch, UTC.
        source: where the frames come from.
        seen, kept, dropped, filled: as in `edgewf.listener.Status`.
        bursts: bursts that ended in an estimate.
        burst_failures: bursts that failed.
        last_burst_seconds: from the start to the end of the last estimate's burst, with the
            pauses in between.
        duty: share of the last ten minutes (of the run, where it is younger) in which bursts
            ran, 0 to 1; None before the first.
        temperature: of the hottest sensor, degrees Celsius; None where there is none.
        throttled: whether the device has slowed down because of heat or power; None if unknown.
        power_mode: of a Jetson, such as "MODE_30W".
        memory_bytes: resident memory of the process.
        problems: sentences for the owner; empty when all is well.
    """

    time: float
    source: SourceHealth
    seen: int
    kept: int
    dropped: int
    filled: int
    bursts: int
    burst_failures: int
    last_burst_seconds: float | None
    duty: float | None
    temperature: float | None
    throttled: bool | None
    power_mode: str | None
    memory_bytes: int
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; `source` is an object."""
        return {**asdict(self), "problems": list(self.problems)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Health:
        """Read back what `to_json` wrote."""
        source = SourceHealth(**record["source"])
        return cls(**{**record, "source": source, "problems": tuple(record["problems"])})


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """Return the memory of this process that is in RAM; 0 where Linux's /proc is missing."""
    try:
        pages = int(statm.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def source_problems(source: SourceHealth, now: float) -> list[str]:
    """Return what the owner should know of a source, as sentences.

    Args:
        source: its state.
        now: seconds since the epoch.
    """
    found = []
    said = f" ({source.message})" if source.message else ""
    if source.state == "reconnecting":
        found.append(f"the source is gone and is opened again and again{said}")
    elif source.state == "stalled":
        silence = "" if source.last_frame is None else f" for {now - source.last_frame:.0f} s"
        found.append(f"no frame has come{silence}: check the camera and its cable{said}")
    if source.frozen:
        found.append("the picture has not changed for long: check that the camera is not frozen")
    if source.black:
        found.append("the picture is black: check the lens cap and the light")
    return found
