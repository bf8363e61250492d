"""The table of all data sets, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.paper.published import EARLIER_MAE, MODEL, PAPER_MAE, STEPS
from benchmarks.paper.run import Result
from benchmarks.paper.splits import FITTED, SPLITS, Split


@dataclass(frozen=True)
class Row:
    """A data set; means over its cells.

    Attributes:
        split: which.
        cells: finished ones.
        accuracy: percent.
        weighted_flips: per 1,000.
        paper, default, confidence: mean absolute errors in points; None where not estimated.
    """

    split: Split
    cells: int
    accuracy: float
    weighted_flips: float
    paper: float
    default: float | None
    confidence: float


def rows(results: Sequence[Result]) -> list[Row]:
    """Return a row for each data set with results, in the order of the table."""
    found = []
    for split in (*SPLITS, *FITTED):
        mine = [x for x in results if x.split == split.name]
        if not mine:
            continue
        known = [
            abs(x.default_accuracy - x.true_accuracy)
            for x in mine
            if x.default_accuracy is not None
        ]
        found.append(
            Row(
                split,
                len(mine),
                float(np.mean([x.true_accuracy for x in mine])),
                float(np.mean([x.weighted_flips for x in mine])),
                float(np.mean([abs(x.paper_accuracy - x.true_accuracy) for x in mine])),
                float(np.mean(known)) if len(known) == len(mine) else None,
                float(np.mean([abs(x.average_confidence - x.true_accuracy) for x in mine])),
            )
        )
    return found


def means(found: Sequence[Row]) -> dict[str, float | None]:
    """Return the mean absolute error of each estimator over the data sets f was not fitted to."""
    judged = [row for row in found if row.split not in FITTED]
    default = [row.default for row in judged if row.default is not None]
    return {
        "paper": _mean([row.paper for row in judged]),
        "default": _mean(default) if len(default) == len(judged) else None,
        "confidence": _mean([row.confidence for row in judged]),
    }


def summary(found: Sequence[Row]) -> dict[str, Any]:
    """Return the table as JSON values."""
    return {
        "splits": {
            row.split.name: {
                "cells": row.cells,
                "true_accuracy": row.accuracy,
                "weighted_flips": row.weighted_flips,
                "error": {
                    "paper": row.paper,
                    "default": row.default,
                    "confidence": row.confidence,
                },
                "in_mean": row.split not in FITTED,
            }
            for row in found
        },
        "mae": means(found),
        "published_mae": {"weighted flips": PAPER_MAE, "best earlier method": EARLIER_MAE},
    }


def table(found: Sequence[Row], model: str, steps: int) -> list[str]:
    """Return the table as Markdown.

    Args:
        found: see `rows`.
        model, steps: that were run; f was published for one of each.
    """
    lines = [
        "| data set | cells | true accuracy | weighted flips | error, published f "
        "| error, our default | error, average confidence |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found:
        mark = " (f was fitted here)" if row.split in FITTED else ""
        lines.append(
            f"| {row.split.title}{mark} | {row.cells} | {row.accuracy:.1f} "
            f"| {row.weighted_flips:.0f} | {row.paper:.2f} | {_text(row.default)} "
            f"| {row.confidence:.2f} |"
        )
    mean = means(found)
    count = sum(row.split not in FITTED for row in found)
    if count:
        lines.append(
            f"| **MAE over {count} of {len(SPLITS)}** | | | | **{_text(mean['paper'])}** "
            f"| **{_text(mean['default'])}** | **{_text(mean['confidence'])}** |"
        )
    lines += [
        f"| the paper, over its 23 | | | | {PAPER_MAE:.2f} | | |",
        f"| the paper, best earlier method | | | | {EARLIER_MAE:.2f} | | |",
    ]
    if model != MODEL or steps != STEPS:
        lines += [
            "",
            f"The published f is for {MODEL} with {STEPS} steps; this is {model} with {steps}.",
        ]
    return lines


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
