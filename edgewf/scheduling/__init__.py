"""When bursts run, and how much of the machine they may take."""

from __future__ import annotations

from edgewf.scheduling.bursts import Bursts, BurstThread
from edgewf.scheduling.drift import ConfidenceDrift
from edgewf.scheduling.duty import DutyCycle
from edgewf.scheduling.thermostat import Thermostat

__all__ = ["BurstThread", "Bursts", "ConfidenceDrift", "DutyCycle", "Thermostat"]
