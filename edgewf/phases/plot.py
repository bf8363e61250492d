"""A trajectory as a picture: one panel a number, over the steps."""

from __future__ import annotations

from pathlib import Path

from edgewf.figures import check_matplotlib, save
from edgewf.phases.trajectory import Trajectory

_PANELS = (
    ("distance", "distance from clean\n(1: as clean images)"),
    ("accuracy", "true accuracy (%)"),
    ("flips", "flips of 1,000"),
    ("classes", "predicted classes\n(effective)"),
    ("entropy", "mean entropy (nats)"),
)


def draw(trajectory: Trajectory, path: Path, title: str) -> None:
    """Write the picture of a trajectory, atomically.

    Args:
        trajectory: with one look or more.
        path: of a .png or .svg file.
        title: one line.
    """
    check_matplotlib("--output")
    from matplotlib.figure import Figure

    steps = [look.step for look in trajectory.looks]
    panels = [
        (label, [getattr(look, name) for look in trajectory.looks])
        for name, label in _PANELS
        if getattr(trajectory.looks[0], name) is not None
    ]
    figure = Figure(figsize=(7, 0.6 + 1.5 * len(panels)), dpi=110, layout="constrained")
    column = figure.subplots(len(panels), 1, sharex=True)
    marks = [("second phase", trajectory.turn, "black"), ("collapse", trajectory.collapse, "red")]
    for axes, (label, values) in zip(column, panels, strict=True):
        axes.plot(steps, values, lw=1.6)
        axes.set_ylabel(label, fontsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for _, step, colour in marks:
            if step is not None:
                axes.axvline(step, color=colour, ls="--", lw=1)
    for text, step, colour in marks:
        if step is not None:
            place = {"xycoords": ("data", "axes fraction"), "fontsize": 8, "va": "top"}
            column[0].annotate(f" {text}", (step, 1), color=colour, **place)
    column[0].set_title(title, fontsize=9, loc="left", parse_math=False)
    # Much happens early, and step 0 has its place.
    column[-1].set_xscale("symlog", linthresh=10)
    column[-1].xaxis.set_major_formatter("{x:.0f}")
    column[-1].set(xlabel="steps", xlim=(0, max(steps[-1], 1)))
    save(figure, path)
