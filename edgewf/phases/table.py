"""What `edgewf analyze` shows a person."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgewf.phases.trajectory import Trajectory

_ROWS = 14


def trajectory_report(trajectory: Trajectory, title: str) -> RenderableType:
    """Return some of the looks as a table, and what the phases are."""
    table = Table(title=Text(title), box=box.SIMPLE, title_justify="left")
    table.add_column("step", justify="right", style="bold")
    for name in ("distance", "classes", "entropy", "flips", "weighted"):
        table.add_column(name, justify="right", no_wrap=True)
    known = trajectory.deployed_accuracy is not None
    if known:
        table.add_column("accuracy", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    last = len(trajectory.looks) - 1
    every = max(1, -(-last // _ROWS))
    notes = {trajectory.collapse: "collapse"}
    notes = {trajectory.turn: "second phase begins", **notes}
    for index, look in enumerate(trajectory.looks):
        if index % every and index != last and look.step not in notes:
            continue
        row = [
            str(look.step),
            "" if look.distance is None else f"{look.distance:.3f}",
            f"{look.classes:.2f}",
            f"{look.entropy:.3f}",
            f"{look.flips:.0f}",
            f"{look.weighted_flips:.0f}",
        ]
        if known:
            row.append(f"{look.accuracy:.1f} %")
        table.add_row(*row, notes.get(look.step, ""))
    return Group(table, Text("\n".join(summary(trajectory))))


def summary(trajectory: Trajectory) -> list[str]:
    """Return what the phases are, in sentences."""
    last = trajectory.looks[-1].step
    found = []
    if trajectory.looks[0].distance is None:
        found.append("no phases: the bundle has no centroids of clean images")
    elif trajectory.turn is None:
        found.append(f"first phase: after {last} steps the embeddings have not drifted away")
    elif trajectory.turn == 0:
        found.append("second phase from the start: the embeddings only drift away")
    else:
        found.append(
            f"first phase up to step {trajectory.turn}; then the embeddings drift away again"
        )
    if trajectory.collapse is not None:
        found.append(
            f"collapse by step {trajectory.collapse}: fewer than half of the classes are "
            "predicted; an estimate's burst of more than 10 steps stops at the next tenth step"
        )
    if trajectory.deployed_accuracy is not None:
        found.append(f"accuracy of the deployed network: {trajectory.deployed_accuracy:.1f} %")
    return found
