"""What becomes of the estimates: records and the display."""

from __future__ import annotations

from edgewf.telemetry.display import Session, open_display
from edgewf.telemetry.records import JsonLines

__all__ = ["JsonLines", "Session", "open_display"]
