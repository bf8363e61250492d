"""The measurements as Markdown and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.latency.profile import KINDS, Profile
from benchmarks.latency.roofline import Cost, Machine
from benchmarks.latency.rows import EAGER, EAGER_CHANNELS_LAST, EDGEWF
from benchmarks.latency.scaling import OFF_THE_LINE, relative, work
from benchmarks.latency.side_by_side import Setting

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# A row whose gradient is further from float64 than this many times the worse of PyTorch's two
# float32 layouts, and further than the absolute bound, does not compute the same. The layouts only
# sum in another order; with random weights that alone can make an error of 0.2.
_TIMES_FLOAT32 = 2.0
_ABSOLUTE = 1e-3
_REASON = 120  # characters, the last ones
_MIB = 2**20
_OURS = ("#1f5fb4", "#6aa3e8")
_OTHERS = ("#8a8a8a", "#b8b8b8", "#e0b080", "#c8703a", "#a04a20", "#5a8a5a")

# Of the seconds of ResNet-50 and so on, on two cores with batch 16.
TARGETS = {
    "resnet50": {"eager": 2.0, "infer": 3.0},
    "efficientnet_lite0": {"eager": 2.0, "infer": 6.0},
    "mobilenet_v2": {"eager": 2.0},
}


def side_by_side(
    results: Sequence[dict[str, Any]], costs: Mapping[str, Cost], machine: Machine
) -> str:
    """Return the table of all rows.

    Args:
        results: of `side_by_side.measure`.
        costs: of a step, by model.
        machine: measured in the same run.
    """
    lines = [
        "| model | row | step, s | range | PyTorch eager / row | limit / row | infer, s | "
        "step / infer | peak memory, MiB | gradient error |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        model, batch = result["setting"]["model"], result["setting"]["batch"]
        limit = costs[model].seconds(machine, batch)
        lines += (
            _row(model, name, row, result["rows"], limit) for name, row in result["rows"].items()
        )
    return "\n".join(lines)


def _row(
    model: str, name: str, row: dict[str, Any], rows: Mapping[str, dict[str, Any]], limit: float
) -> str:
    if "failed" in row:
        reason = " ".join(row["failed"].replace("|", "/").split())[-_REASON:]
        return f"| {model} | {name} | does not run: … {reason} | | | | | | | |"
    seconds = statistics.median(row["step"])
    eager = rows[EAGER]
    infer = statistics.median(row["infer"]) if row["infer"] else None
    cells = [
        model,
        name,
        f"{seconds:.3f}",
        f"{min(row['step']):.3f} to {max(row['step']):.3f}",
        f"{statistics.median(eager['step']) / seconds:.2f}" if eager.get("step") else "",
        f"{limit / seconds:.2f}",
        "" if infer is None else f"{infer:.3f}",
        "" if infer is None else f"{seconds / infer:.1f}",
        f"{row['memory']['peak'] / _MIB:.0f}",
        f"{row['error']:.1e}{'' if same(row, rows) else ' (not the same)'}",
    ]
    return f"| {' | '.join(cells)} |"


def same(row: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether one of some rows finds the gradient about as well as PyTorch in float32 does."""
    float32 = (rows.get(name, {}).get("error", 0.0) for name in (EAGER, EAGER_CHANNELS_LAST))
    return bool(row["error"] <= max(_ABSOLUTE, _TIMES_FLOAT32 * max(float32)))


def targets(results: Sequence[dict[str, Any]]) -> str:
    """Return each target beside the figure of edgewf's fastest engine."""
    lines = ["| model | target | found | |", "|---|---|---:|---|"]
    for result in results:
        rows = {name: r for name, r in result["rows"].items() if "failed" not in r}
        ours = {n: r for n, r in rows.items() if n.startswith(EDGEWF)}
        goal = TARGETS.get(result["setting"]["model"])
        if goal is None or not ours or EAGER not in rows:
            continue
        model = result["setting"]["model"]
        times = {name: statistics.median(row["step"]) for name, row in rows.items()}
        best = min(ours, key=lambda name: times[name])
        ratio = times[EAGER] / times[best]
        lines.append(
            _target(model, f"{goal['eager']:g} x as fast as {EAGER}", ratio, goal["eager"])
        )
        others = {
            name: seconds
            for name, seconds in times.items()
            if name not in ours and same(rows[name], rows)
        }
        rival = min(others, key=lambda name: others[name])
        lines.append(
            _target(model, f"faster than every row ({rival})", others[rival] / times[best], 1.0)
        )
        if "infer" in goal:
            share = times[best] / statistics.median(rows[best]["infer"])
            met = "met" if share <= goal["infer"] else "missed"
            lines.append(f"| {model} | at most {goal['infer']:g} x infer | {share:.1f} | {met} |")
    return "\n".join(lines)


def _target(model: str, goal: str, found: float, least: float) -> str:
    return f"| {model} | {goal} | {found:.2f} | {'met' if found >= least else 'missed'} |"


def profiles(found: Mapping[tuple[str, str], Profile]) -> str:
    """Return shares of a step's time by kind of operator, and the operators that take most."""
    lines = [
        f"| model | engine | {' | '.join(KINDS)} | outside | most |",
        "|---|---|" + "---:|" * (len(KINDS) + 1) + "---|",
    ]
    for (model, engine), p in found.items():
        whole = sum(p.kinds.values()) + p.numpy
        shares = [f"{100 * x / whole:.0f} %" for x in (*p.kinds.values(), p.numpy)]
        most = ", ".join(
            f"{name} {100 * x / whole:.0f} %" for name, x in [*p.operators.items()][:5]
        )
        lines.append(f"| {model} | {engine} | {' | '.join(shares)} | {most} |")
    return "\n".join(lines)


def scaling(results: Mapping[str, Sequence[tuple[Setting, dict[str, Any]]]]) -> str:
    """Return a table for each thing that grows; times off the straight line are in bold."""
    return "\n\n".join(_scaling(what, list(found)) for what, found in results.items() if found)


def _scaling(what: str, found: list[tuple[Setting, dict[str, Any]]]) -> str:
    rows = [
        name
        for name in found[0][1]["rows"]
        if all("step" in result["rows"].get(name, {}) for _, result in found)
    ]
    shares = {name: relative(what, found, name) for name in rows}
    lines = [
        f"### {what} ({found[0][0].model})",
        "",
        f"| {what} | {' | '.join(rows)} |",
        f"|---:|{'---:|' * len(rows)}",
    ]
    for i, (setting, result) in enumerate(found):
        cells = []
        for name in rows:
            text = (
                f"{statistics.median(result['rows'][name]['step']):.3f} s ({shares[name][i]:.2f})"
            )
            cells.append(f"**{text}**" if abs(shares[name][i] - 1) > OFF_THE_LINE else text)
        lines.append(f"| {getattr(setting, what)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def roofs(costs: Mapping[str, Cost], machine: Machine, batch: int) -> str:
    """Return the limits of a step of each model."""
    ridge = machine.flops / machine.bandwidth
    lines = [
        f"Peak {machine.flops / 1e9:.0f} GFLOP/s (float32, the faster of a matrix product and a "
        f"convolution), bandwidth {machine.bandwidth / 1e9:.1f} GB/s (sum of two vectors), the "
        f"best of all measurements; the ridge lies at {ridge:.1f} operations a byte.",
        "",
        f"| model | GFLOP an image | MiB an image | operations a byte, batch {batch} | limit, s |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {model} | {c.flops / 1e9:.2f} | {c.activations / _MIB:.1f} | "
        f"{c.intensity(batch):.1f} | {c.seconds(machine, batch):.3f} |"
        for model, c in costs.items()
    ]
    return "\n".join(lines)


def startup(help_seconds: Sequence[float], first: Mapping[str, Mapping[str, float]]) -> str:
    """Return what a user waits for."""
    middle = statistics.median(help_seconds)
    lines = [
        f"`edgewf --help`: {middle:.3f} s (median of {len(help_seconds)}, at most "
        f"{max(help_seconds):.3f} s; target 0.4 s).",
        "",
        "| engine | " + " | ".join(next(iter(first.values()))).replace("_", " ") + " |",
        "|---|" + "---:|" * len(next(iter(first.values()))),
    ]
    lines += [
        f"| {engine} | " + " | ".join(f"{x:.3f}" for x in parts.values()) + " |"
        for engine, parts in first.items()
    ]
    return "\n".join(lines)


def draw(
    results: Sequence[dict[str, Any]],
    costs: Mapping[str, Cost],
    machine: Machine,
    path: Path,
) -> None:
    """Plot the speed of every row, in multiples of PyTorch eager's, with the limit; write a PNG."""
    names = list(dict.fromkeys(name for r in results for name in r["rows"]))
    figure, axes = plt.subplots(figsize=(12, 5), dpi=120, layout="constrained")
    width = 0.85 / len(names)
    for i, name in enumerate(names):
        heights = list(_speeds(name, results))
        colour = _OURS[i % 2] if name.startswith(EDGEWF) else _OTHERS[i % len(_OTHERS)]
        places = [j + (i - len(names) / 2 + 0.5) * width for j in range(len(results))]
        bars = axes.bar(places, heights, width * 0.95, label=name, color=colour)
        for bar, result in zip(bars, results, strict=True):
            row = result["rows"].get(name, {})
            if "error" in row and not same(row, result["rows"]):
                bar.set(hatch="////", alpha=0.5)
    labels = []
    for result in results:
        setting, eager = result["setting"], result["rows"][EAGER]
        limit = costs[setting["model"]].seconds(machine, setting["batch"])
        speed = statistics.median(eager["step"]) / limit
        labels.append(f"{setting['model']}\nlimit {speed:.1f}")
    axes.axhline(1, color="grey", lw=0.8)
    axes.set_xticks(range(len(results)), labels, fontsize=8)
    axes.set(ylabel=f"steps a second, {EAGER} = 1 (hatched: another gradient)")
    axes.legend(fontsize=7, ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def _speeds(name: str, results: Sequence[dict[str, Any]]) -> Iterator[float]:
    """Yield a row's speed for each model, 0 where it does not run."""
    for result in results:
        row, eager = result["rows"].get(name, {}), result["rows"][EAGER]
        yield (
            statistics.median(eager["step"]) / statistics.median(row["step"])
            if row.get("step")
            else 0
        )


def scaling_picture(
    results: Mapping[str, Sequence[tuple[Setting, dict[str, Any]]]], path: Path
) -> None:
    """Plot time against what grows, with a straight line through the middle; write a PNG."""
    shown = {what: found for what, found in results.items() if found}
    figure, grid = plt.subplots(
        1, len(shown), figsize=(3.4 * len(shown), 3.2), dpi=120, layout="constrained", squeeze=False
    )
    for axes, (what, found) in zip(grid[0], shown.items(), strict=True):
        for name in found[0][1]["rows"]:
            if any("step" not in result["rows"][name] for _, result in found):
                continue
            x = [getattr(setting, what) for setting, _ in found]
            y = [statistics.median(result["rows"][name]["step"]) for _, result in found]
            (line,) = axes.plot(x, y, "o-", ms=3, label=name)
            rate = statistics.median(t / work(what, s) for t, (s, _) in zip(y, found, strict=True))
            straight = [rate * work(what, setting) for setting, _ in found]
            axes.plot(x, straight, ls=":", lw=0.8, color=line.get_color())
        axes.set(xscale="log", yscale="log", xlabel=what, ylabel="step, s")
        axes.set_xticks(x, [str(n) for n in x], fontsize=7)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].legend(fontsize=6, frameon=False)
    figure.savefig(path)
    plt.close(figure)
