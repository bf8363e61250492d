"""A trajectory as a picture: distance and classes, flips and accuracy, over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgewf.bundle import write_bytes
from edgewf.errors import EdgewfError
from edgewf.phases.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check() -> None:
    """Refuse to draw where matplotlib is missing, before anything is measured.

    Raises:
        EdgewfError: it is.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EdgewfError("--output needs matplotlib: pip install 'edgewf[plot]'") from error


def draw(trajectory: Trajectory, path: Path, title: str) -> None:
    """Write the picture of a trajectory, atomically.

    Args:
        trajectory: with one look or more.
        path: of a .png or .svg file.
        title: one line.
    """
    check()
    import io

    from matplotlib.figure import Figure

    looks = trajectory.looks
    steps = [look.step for look in looks]
    figure = Figure(figsize=(8, 6), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.set_title(title, fontsize=9, loc="left")
    _two_scales(
        upper,
        steps,
        ("distance from clean centroids (1: as clean images)", [x.distance for x in looks]),
        [
            ("predicted classes (effective)", [x.classes for x in looks]),
        ],
    )
    shown = [("flips (%)", [x.flips / 10 for x in looks])]
    if trajectory.deployed_accuracy is not None:
        shown.append(("true accuracy (%)", [x.accuracy or 0.0 for x in looks]))
    _two_scales(lower, steps, ("mean entropy (nats)", [x.entropy for x in looks]), shown)
    if trajectory.deployed_accuracy is not None:
        lower.axhline(trajectory.deployed_accuracy, color="grey", ls=":", lw=1)
        lower.annotate(
            "deployed accuracy",
            (steps[-1], trajectory.deployed_accuracy),
            ha="right",
            va="bottom",
            fontsize=7,
            color="grey",
        )
    for axes in (upper, lower):
        for step, colour in ((trajectory.turn, "black"), (trajectory.collapse, "tab:red")):
            if step is not None:
                axes.axvline(step, color=colour, ls="--", lw=1)
    for step, text, colour in (
        (trajectory.turn, "second phase", "black"),
        (trajectory.collapse, "collapse", "tab:red"),
    ):
        if step is not None:
            upper.annotate(
                f" {text}",
                (step, 0.02),
                xycoords=("data", "axes fraction"),
                fontsize=8,
                color=colour,
            )
    # Much happens early, and step 0 has its place.
    lower.set_xscale("symlog", linthresh=10)
    lower.set(xlabel="steps", xlim=(0, max(steps[-1], 1)))
    lower.xaxis.set_major_formatter("{x:.0f}")
    file = io.BytesIO()
    figure.savefig(file, format=path.suffix[1:])
    write_bytes(path, file.getvalue())


def _two_scales(
    axes: Axes,
    steps: list[int],
    right: tuple[str, list[float | None]] | tuple[str, list[float]],
    left: list[tuple[str, list[float]]],
) -> None:
    """Plot lines that share the left scale, and one on the right where it is known."""
    lines = []
    for (name, values), colour in zip(left, ("tab:orange", "tab:green"), strict=False):
        lines += axes.plot(steps, values, color=colour, label=name, lw=1.6)
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    name, found = right
    if None not in found:
        other = axes.twinx()
        lines += other.plot(steps, found, color="tab:blue", label=name, lw=1.6)
        other.tick_params(axis="y", colors="tab:blue")
        other.spines[["top"]].set_visible(False)
    axes.spines[["top"]].set_visible(False)
    axes.legend(handles=lines, frameon=False, fontsize=8, loc="upper left")
