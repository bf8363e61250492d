"""Estimates over time as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.figures import check_matplotlib, save
from edgewf.history import Record

_SUFFIXES = (".png", ".svg")


def draw(records: Sequence[Record], path: Path) -> None:
    """Plot accuracy with its interval, and the truth where it was known; write a PNG or SVG.

    Raises:
        EdgewfError: another suffix, or matplotlib is missing.
    """
    if path.suffix not in _SUFFIXES:
        raise EdgewfError(f"{path}: give a file that ends in .png or .svg")
    check_matplotlib("--plot")
    from matplotlib.figure import Figure

    known = [r for r in records if r["accuracy"] is not None]
    when = _days(known)
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    if known:
        lows, highs = zip(*(r["interval"] for r in known), strict=True)
        axes.fill_between(when, lows, highs, alpha=0.2, lw=0, label="90 % interval")
        axes.plot(when, [r["accuracy"] for r in known], "o-", ms=3, label="estimate")
        doubted = [i for i, r in enumerate(known) if r["flags"]]
        axes.plot(
            when[doubted],
            [known[i]["accuracy"] for i in doubted],
            "x",
            color="tab:red",
            label="flagged",
        )
    truths = [r for r in records if "true_accuracy" in r]
    if truths:
        axes.plot(
            _days(truths),
            [r["true_accuracy"] for r in truths],
            "k.",
            label="true accuracy",
        )
    axes.set(ylabel="accuracy (%)", ylim=(0, 100), xlabel="UTC")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if records:
        axes.legend(frameon=False, ncols=4)
    axes.xaxis_date()
    figure.autofmt_xdate()
    save(figure, path)


def _days(records: Sequence[Record]) -> NDArray[np.float64]:
    """Return times as matplotlib counts them: days since the epoch."""
    return np.array([record["time"] / 86400 for record in records], np.float64)
