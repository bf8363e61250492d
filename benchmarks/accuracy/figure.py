"""The estimate beside the truth, window after window, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib

from benchmarks.accuracy.errors import interval
from edgewf.calibration import Point
from edgewf.estimators.fitted import Fitted
from edgewf.flags import UsualClasses

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(
    points: Sequence[Point], estimator: Fitted, frames: int, usual: UsualClasses, path: Path
) -> None:
    """Plot truth, estimate with its 90 % interval, and average confidence; write a PNG."""
    x = range(len(points))
    estimates = [estimator(p.scores) for p in points]
    lows, highs = zip(*(interval(estimator, p, frames, usual) for p in points), strict=True)
    figure, axes = plt.subplots(figsize=(12, 4.2), dpi=120, layout="constrained")
    axes.fill_between(x, lows, highs, color="tab:blue", alpha=0.18, lw=0, label="90 % interval")
    axes.plot(x, estimates, color="tab:blue", lw=2, label="edgewf, no labels")
    axes.plot(x, [p.accuracy for p in points], "o", color="black", ms=3.5, label="true accuracy")
    axes.plot(
        x,
        [p.scores["average_confidence"] for p in points],
        color="tab:orange",
        lw=1.2,
        ls="--",
        label="average confidence",
    )
    axes.set(ylabel="accuracy (%)", ylim=(0, 100), xlim=(-0.5, len(points) - 0.5))
    axes.set_xticks(list(x), [str(p.severity) for p in points], fontsize=6)
    start = 0
    for name, group in groupby(points, key=lambda p: p.shift):
        size = len(list(group))
        axes.text(
            start + (size - 1) / 2,
            -0.08,
            name.replace("_", "\n"),
            ha="center",
            va="top",
            fontsize=8,
            transform=axes.get_xaxis_transform(),
        )
        start += size
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=4, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.15), fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def scatter(judged: Mapping[str, Sequence[Point]], estimator: Fitted, path: Path) -> None:
    """Plot estimated against true accuracy, a mark for every kind of window; write a PNG."""
    figure, axes = plt.subplots(figsize=(4.6, 4.6), dpi=120, layout="constrained")
    axes.plot([0, 100], [0, 100], color="grey", lw=0.8)
    for (kind, points), mark in zip(judged.items(), "o^s", strict=False):
        x, y = [p.accuracy for p in points], [estimator(p.scores) for p in points]
        axes.plot(x, y, mark, ms=4, alpha=0.7, label=kind)
    axes.set(xlabel="true accuracy (%)", ylabel="estimate (%)", xlim=(0, 100), ylim=(0, 100))
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path)
    plt.close(figure)
