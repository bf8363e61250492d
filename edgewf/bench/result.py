"""The record of a run: what is derived from its samples, and reading it back."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgewf.bench.statistics import Summary
from edgewf.errors import EdgewfError

FORMAT = "edgewf bench"
FORMAT_VERSION = 1

WHOLES = ("inference", "step", "record", "probe")
"""Calls of an engine on one batch, as opposed to their parts."""


def summary(
    rounds: Sequence[dict[str, Any]], batch: int, idle_watts: float | None
) -> dict[str, Any]:
    """Return what the samples of all rounds of a case say together, as JSON values."""
    seconds = {name: Summary.of(pooled(rounds, name)) for name in rounds[0]["seconds"]}
    estimates = []
    for i, first in enumerate(rounds[0]["estimates"]):
        times = Summary.of([x for r in rounds for x in r["estimates"][i]["seconds"]])
        known = [x for r in rounds if (x := r["estimates"][i]["joules"]) is not None]
        joules = statistics.median(known) if known else None
        above = None
        if joules is not None and idle_watts is not None:
            above = joules - idle_watts * times.mean
        estimates.append(
            {
                "steps": first["steps"],
                "seconds": times.to_json(),
                "joules": joules,
                "joules_above_idle": above,
            }
        )
    return {
        "startup": _medians([r["startup"] for r in rounds]),
        "memory": {
            name: _most([r["memory"][name] for r in rounds]) for name in rounds[0]["memory"]
        },
        "images_per_second": {name: batch / seconds[name].p50 for name in WHOLES},
        "step_over_inference": seconds["step"].p50 / seconds["inference"].p50,
        "seconds": {name: s.to_json() for name, s in seconds.items()},
        "unstable": [name for name in WHOLES if not seconds[name].stable],
        "estimates": estimates,
    }


def pooled(rounds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return the samples of a measurement in all rounds."""
    return [x for r in rounds for x in r["seconds"][name]]


def drifts(cases: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how far the round medians of each whole lie apart, as a share of the lowest."""
    found = {}
    for case in cases:
        for name in WHOLES if len(case.get("rounds", ())) > 1 else ():
            medians = [statistics.median(r["seconds"][name]) for r in case["rounds"]]
            found[f"{label(case)}: {name}"] = max(medians) / min(medians) - 1
    return found


def label(case: dict[str, Any]) -> str:
    """Return a case's name in tables."""
    order = case["case"]
    threads = "" if order["threads"] is None else f", {order['threads']} threads"
    precision = "" if case["precision"] == "fp32" else f" {case['precision']}"
    batch = order["settings"]["batch_size"]
    return f"{case['model']}{precision}, {order['engine']}, batch {batch}{threads}"


def read_result(path: Path) -> dict[str, Any]:
    """Read what `edgewf bench --json` printed.

    Raises:
        EdgewfError: no such file, or one of another kind.
    """
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgewfError(
            f"{path}: {error.strerror}: give a file that `edgewf bench --json` made"
        ) from error
    except ValueError as error:
        raise EdgewfError(
            f"{path}: not JSON ({error}): give a file that `edgewf bench --json` made"
        ) from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise EdgewfError(f"{path}: not a result of `edgewf bench --json`")
    found = record.get("format_version")
    if found != FORMAT_VERSION:
        raise EdgewfError(
            f"{path}: result format {found}, and this edgewf reads {FORMAT_VERSION}: measure again "
            "with this version"
        )
    if not isinstance(record.get("cases"), list):
        raise EdgewfError(f"{path}: damaged, it has no list of cases: measure again")
    return record


def _medians(records: Sequence[dict[str, float]]) -> dict[str, float]:
    found = {name: statistics.median(r[name] for r in records) for name in records[0]}
    return {**found, "total": sum(found.values())}


def _most(values: Sequence[int | None]) -> int | None:
    return max((x for x in values if x is not None), default=None)
