"""A monitor that is well."""

from __future__ import annotations

from edgewf.health import Health
from edgewf.stream.health import SourceHealth

WELL = Health(
    time=1790000000.0,
    source=SourceHealth(
        state="live",
        frames=260,
        dropped=0,
        decode_errors=0,
        reconnects=0,
        frozen=False,
        black=False,
        last_frame=1790000000.0,
        message="",
    ),
    seen=260,
    kept=250,
    dropped=10,
    filled=0,
    bursts=1,
    burst_failures=0,
    last_burst_seconds=20.0,
    duty=0.1,
    temperature=None,
    throttled=None,
    power_mode=None,
    memory_bytes=300_000_000,
    problems=(),
)
