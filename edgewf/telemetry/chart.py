"""Accuracies as a small column chart of block characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_TICKS = "▁━▔"  # low, middle and high in a row
_WIDEST = 7  # a column and the gap after it
_THRESHOLD = "╌"
_BEHIND = Style(color="red", dim=True)
_TRUTH = Style(color="cyan", bold=True)
_MARGIN = 5  # "100 ┤"


@dataclass(frozen=True)
class Column:
    """One estimate: percentages, and the colour of its column."""

    accuracy: float | None
    truth: float | None
    colour: str


def accuracy_chart(
    columns: Sequence[Column], *, width: int, height: int, threshold: float | None = None
) -> Text:
    """Return `height` rows and an axis, at most `width` characters wide, from 0 to 100 percent.

    The truth is a tick to the right of its column; there is none where columns are one character
    wide.

    Args:
        columns: oldest first; the newest are shown where there is no room for all.
        width: in characters, at least 6.
        height: in rows, a multiple of 4: labels stand at every 25 percent.
        threshold: percent, drawn as a dashed line behind the columns.
    """
    room = width - _MARGIN
    columns = columns[-room:]
    slot = max(1, min(_WIDEST, room // max(1, len(columns))))
    gap = min(slot - 1, 1 + slot // 6)
    lines = []
    for row in reversed(range(height)):
        line = Text(_label(row, height), "dim")
        dashed = threshold is not None and row == _row(threshold, height)
        background = _THRESHOLD if dashed else " "
        for column in columns:
            line.append(*_bar(column, row, height, background, slot - gap))
            line.append(*_tick(column, row, height, background, gap))
        line.append(background * (room - slot * len(columns)), _BEHIND)
        lines.append(line)
    lines.append(_axis(columns, room, gap > 0, threshold is not None))
    return Text("\n").join(lines)


def _axis(columns: Sequence[Column], room: int, ticks: bool, threshold: bool) -> Text:
    """Return the line below the columns, with the legend in it where that fits."""
    legend = Text(" ")
    colour = columns[-1].colour if columns else "green"
    legend.append("█", colour).append(" estimate ", "dim")
    if ticks and any(column.truth is not None for column in columns):
        legend.append(_TICKS[1], _TRUTH).append(" true ", "dim")
    if threshold:
        legend.append(_THRESHOLD, _BEHIND).append(" alert ", "dim")
    if len(legend) > room:
        legend = Text()
    return Text("  0 └" + "─" * (room - len(legend)), "dim").append(legend)


def _label(row: int, height: int) -> str:
    """Name the upper edge of a row, where it is a multiple of 25 percent."""
    if (row + 1) * 4 % height:
        return "    │"
    return f"{(row + 1) * 100 // height:>3} ┤"


def _row(percent: float, height: int) -> int:
    """Return the row that a percentage is in; a row owns its upper edge, as its label says."""
    return max(0, min(height - 1, -int(-percent * height // 100) - 1))


def _eighths(percent: float, height: int) -> int:
    return round(max(0.0, min(100.0, percent)) / 100.0 * height * 8)


def _bar(column: Column, row: int, height: int, background: str, width: int) -> tuple[str, Style]:
    if column.accuracy is not None:
        # Even 0 percent shows, as a sliver: it is not the same as no estimate.
        filled = max(1, _eighths(column.accuracy, height)) - 8 * row
        if filled > 0:
            return _EIGHTHS[min(8, filled)] * width, Style(color=column.colour)
    return background * width, _BEHIND


def _tick(column: Column, row: int, height: int, background: str, width: int) -> tuple[str, Style]:
    if column.truth is None or row != _row(column.truth, height):
        return background * width, _BEHIND
    part = column.truth / 100.0 * height - row  # 0 to 1, from the bottom of the row
    return _TICKS[max(0, min(2, int(part * 3)))] * width, _TRUTH
