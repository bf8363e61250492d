"""What becomes of the estimates: records, alerts and the display."""

from __future__ import annotations

from edgewf.telemetry.alerts import AlertBelow
from edgewf.telemetry.display import Session, open_display
from edgewf.telemetry.records import JsonLines

__all__ = ["AlertBelow", "JsonLines", "Session", "open_display"]
