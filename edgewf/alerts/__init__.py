"""What the owner is told of without asking: rules, and how their changes are delivered."""

from __future__ import annotations

from edgewf.alerts.alerter import Alerter
from edgewf.alerts.hook import Hook
from edgewf.alerts.rules import AlertBelow, AlertOnChange, AlertUnhealthy, Rule
from edgewf.alerts.webhook import Webhook

__all__ = [
    "AlertBelow",
    "AlertOnChange",
    "AlertUnhealthy",
    "Alerter",
    "Hook",
    "Rule",
    "Webhook",
]
