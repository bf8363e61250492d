"""A web page that shows a running monitor (docs/dashboard.md)."""

from __future__ import annotations

from edgewf.dashboard.listener import Dashboard

__all__ = ["Dashboard"]
