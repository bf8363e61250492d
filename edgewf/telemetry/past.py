"""The past as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgewf.history import Record
from edgewf.telemetry.chart import Column, accuracy_chart

_ROWS = 20  # newest estimates in the table
_HEIGHT = 8  # of the chart
_WIDE = 100  # characters of a terminal that has room for every column


def past_report(
    name: str,
    records: Sequence[Record],
    runs: Mapping[int, Mapping[str, Any]],
    health: Mapping[str, Any] | None,
    width: int,
) -> RenderableType:
    """Return a chart of estimates, a table of the newest, and what is wrong now.

    Args:
        name: of the store.
        records: `Estimate.to_json()`, in the order they were written.
        runs: of `Store.runs`.
        health: the newest `Health.to_json()`, None without any.
        width: of the terminal in characters.
    """
    if not records:
        return Text(f"{name}: no such estimates ({len(runs)} runs)")
    columns = [
        Column(r["accuracy"], r.get("true_accuracy"), "yellow" if r["flags"] else "green")
        for r in records
    ]
    shown = records[-_ROWS:]
    first, last = _when(records[0]["time"]), _when(records[-1]["time"])
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE)
    table.add_column("time", no_wrap=True)
    for column in ("accuracy", "90 % interval", *(["confidence", "flips"] if wide else [])):
        table.add_column(column, justify="right", no_wrap=True)
    if wide:
        table.add_column("model")
    table.add_column("flags")
    for r in shown:
        low, high = r["interval"] or (None, None)
        cells = [
            _when(r["time"]),
            "unknown" if r["accuracy"] is None else f"{r['accuracy']:.1f} %",
            "" if low is None else f"{low:.1f} to {high:.1f}",
        ]
        if wide:
            cells += [f"{r['average_confidence']:.1f} %", f"{r['flips']:.0f}"]
        model = [Text(r["model"])] * wide
        table.add_row(*cells, *model, Text(", ".join(r["flags"]), "yellow"))
    parts: list[RenderableType] = [
        Text(f"{name}: {len(records)} estimates from {first} to {last}, {len(runs)} runs", "bold"),
        accuracy_chart(columns, width=max(20, width), height=_HEIGHT),
        table,
    ]
    if len(shown) < len(records):
        parts.append(Text(f"the newest {len(shown)} of {len(records)}", "dim"))
    if health is not None:
        when = _when(health["time"])
        parts += (Text(f"{when}: {problem}", "red") for problem in health["problems"])
    return Group(*parts)


def _when(time: float) -> str:
    return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
