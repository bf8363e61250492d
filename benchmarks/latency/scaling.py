"""The same step while one thing grows: batch, image, classes, threads."""

from __future__ import annotations

import os
import statistics
from dataclasses import replace
from typing import Any

from benchmarks.latency.side_by_side import Setting

BATCHES = (2, 4, 8, 16, 32, 64)
SIDES = (96, 128, 160, 192, 224, 288)
CLASSES = (10, 100, 1000, 10_000)
OFF_THE_LINE = 0.15
"""Share by which the time for the same amount of work may differ from its median."""


def settings(model: str, threads: int) -> dict[str, list[Setting]]:
    """Return what is measured by the name of what grows, each beginning with the smallest."""
    base = Setting(model, threads=threads)
    counts = sorted({1, *(2**i for i in range(1, 8) if 2**i <= (os.cpu_count() or 1)), threads})
    return {
        "batch": [replace(base, batch=n) for n in BATCHES],
        "side": [replace(base, side=n) for n in SIDES],
        # Random weights throughout: a shipped network has the classes it was trained for.
        "classes": [replace(base, model="mobilenet_v2", classes=n) for n in CLASSES],
        "threads": [replace(base, threads=n) for n in counts],
    }


def work(what: str, setting: Setting) -> float:
    """Return an amount to which the time would be proportional on a straight line.

    Classes only add to the last layer, so time should hardly grow with them; threads divide.
    """
    amounts = {
        "batch": float(setting.batch),
        "side": float(setting.side or 0) ** 2,
        "classes": 1.0,
        "threads": 1 / setting.threads,
    }
    return amounts[what]


def relative(what: str, results: list[tuple[Setting, dict[str, Any]]], row: str) -> list[float]:
    """Return each setting's time for the same work, over the median of all."""
    rates = [
        statistics.median(result["rows"][row]["step"]) / work(what, setting)
        for setting, result in results
    ]
    middle = statistics.median(rates)
    return [rate / middle for rate in rates]
