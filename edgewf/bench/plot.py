"""A result as a picture: where the time of a step goes, beside deployed inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgewf.bench.environment import device_line
from edgewf.bench.parts import STEP_PARTS
from edgewf.bench.result import label
from edgewf.errors import EdgewfError
from edgewf.figures import check_matplotlib, save

FORMATS = (".png", ".svg")

_COLOURS = {
    "upload": "#9a9a9a",
    "forward": "#3b7dd8",
    "objective": "#e0a030",
    "backward": "#7a4fbf",
    "forward_backward": "#5867cc",
    "update": "#d85f5f",
}


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture of a result.

    Args:
        result: of `edgewf.bench.run`.
        path: of a .png or .svg file, which is written atomically.

    Raises:
        EdgewfError: another suffix, or matplotlib is missing.
    """
    check(path)
    from matplotlib.figure import Figure

    cases = [case for case in result["cases"] if "error" not in case]
    figure = Figure(figsize=(9, 1.6 + 0.75 * len(cases)), dpi=130, layout="constrained")
    axes = figure.subplots()
    named: set[str] = set()
    for row, case in enumerate(cases):
        seconds = case["seconds"]
        axes.barh(
            row - 0.2,
            1e3 * seconds["inference"]["p50"],
            0.3,
            color="#4a9a5b",
            label="" if "inference" in named else "deployed inference",
        )
        named.add("inference")
        left = 0.0
        for part in STEP_PARTS:
            if part not in seconds:
                continue
            width = 1e3 * seconds[part]["p50"]
            axes.barh(
                row + 0.2,
                width,
                0.4,
                left=left,
                color=_COLOURS[part],
                label="" if part in named else part.replace("_", " + "),
            )
            named.add(part)
            left += width
        step = seconds["step"]
        high = step["p90"] or max(x for r in case["rounds"] for x in r["seconds"]["step"])
        middle = 1e3 * step["p50"]
        axes.errorbar(
            middle, row + 0.2, xerr=[[0], [1e3 * high - middle]], color="black", capsize=3, lw=1
        )
    axes.set_yticks(range(len(cases)), [label(case) for case in cases])
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds a batch (median; whisker: 90th percentile of a step)")
    axes.set_title(device_line(result["environment"]), fontsize=7, loc="left", wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


def check(path: Path) -> None:
    """Refuse a picture that could not be written, before anything is measured.

    Raises:
        EdgewfError: see `draw`.
    """
    if path.suffix.lower() not in FORMATS:
        raise EdgewfError(f"--plot {path}: give a file that ends in {' or '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise EdgewfError(f"--plot {path}: no folder {path.parent}: make it first")
    check_matplotlib("--plot")
