"""What the command line shows a person: tables and progress bars, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from edgewf.bundle import GRAPHS, WEIGHTS, Bundle
from edgewf.calibration import Calibration, Point
from edgewf.engines.tensorrt_builder import Batches, Verdict
from edgewf.engines.tensorrt_plans import Target
from edgewf.estimate import Estimate
from edgewf.flags import REASONS
from edgewf.settings import BurstSettings
from edgewf.watch import WatchSummary

_AS_GOOD = 1.05  # an error so many times as large can be chance on a calibration's few windows


def bundle_record(bundle: Bundle) -> dict[str, Any]:
    """Return what `edgewf inspect --json` prints."""
    manifest = bundle.manifest
    calibration = Calibration.of(bundle)
    return {
        "bundle": str(bundle.folder),
        "model": manifest.model,
        "origin": manifest.origin,
        "fingerprint": manifest.fingerprint,
        "edgewf_version": manifest.edgewf_version,
        "classes": manifest.classes,
        "parameters": manifest.parameters,
        "norm_layers": len(manifest.layers),
        "preprocessing": manifest.preprocessing.to_json(),
        "precision": manifest.precision,
        "residual_bytes_per_image": manifest.residual_bytes,
        "multiply_adds_per_image": manifest.multiply_adds,
        "recomputed_share": manifest.recomputed,
        "bytes": {name: record["bytes"] for name, record in manifest.files.items()},
        "burst": (manifest.burst if calibration is None else calibration.settings).to_json(),
        "calibration": None
        if calibration is None
        else {
            "description": calibration.description,
            "points": len(calibration.points),
            "estimator": calibration.estimator().record(),
            "residual_std_without_steps": calibration.error_without_steps(),
        },
    }


def bundle_report(bundle: Bundle) -> RenderableType:
    """Return what `edgewf inspect` shows."""
    manifest = bundle.manifest
    calibration = Calibration.of(bundle)
    frames = manifest.preprocessing
    labels = manifest.labels
    shown = "unknown" if labels is None else ", ".join(x.name for x in labels[:3]) + ", …"
    table = _pairs(f"bundle {bundle.folder}")
    table.add_row("model", Text(manifest.model))
    table.add_row("origin", Text(manifest.origin))
    table.add_row("weights' fingerprint", manifest.fingerprint[:16])
    table.add_row("exported by", f"edgewf {manifest.edgewf_version}")
    table.add_row("classes", Text(f"{manifest.classes} ({shown})"))
    table.add_row(
        "trainable", f"{manifest.parameters:,} scales and shifts in {len(manifest.layers)} layers"
    )
    table.add_row(
        "input",
        f"{frames.image_size} x {frames.image_size}, from a shorter side of {frames.resize} "
        f"({frames.interpolation})",
    )
    table.add_row("precision", manifest.precision)
    cost = f", {100 * manifest.recomputed:.0f} % of them to save memory" * (manifest.recomputed > 0)
    table.add_row(
        "a step, an image",
        f"{_size(manifest.residual_bytes)} kept from forward to backward, "
        f"{manifest.multiply_adds / 1e6:,.0f} million multiply-adds{cost}",
    )
    for name in (*GRAPHS, WEIGHTS):
        table.add_row(name, _size(manifest.files[name]["bytes"]))
    table.add_row("burst", burst_text(manifest.burst if not calibration else calibration.settings))
    if calibration is None:
        missing = f"none: run `edgewf calibrate {bundle.folder} --data DIR`"
        table.add_row("calibration", Text(missing))
    else:
        for name, value in _calibration_rows(calibration):
            table.add_row(name, value)
    return table


def check_report(verdicts: Sequence[Verdict], version: str) -> RenderableType:
    """Return what `edgewf export --check tensorrt` shows."""
    table = Table(title=Text(version), box=box.SIMPLE, title_justify="left")
    table.add_column("graph", style="bold", no_wrap=True)
    for name in ("layers", "seconds", "plan"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("TensorRT", no_wrap=True)
    for verdict in verdicts:
        if verdict.error is not None:
            table.add_row(verdict.graph, "", "", "", Text("refused", style="red"))
        else:
            table.add_row(
                verdict.graph,
                f"{verdict.layers:,}",
                f"{verdict.seconds:.1f}",
                _size(verdict.plan_bytes),
                Text("builds", style="green"),
            )
    return table


def build_record(
    plans: Sequence[tuple[Path, bool]], target: Target, batches: Batches
) -> dict[str, Any]:
    """Return what `edgewf build --json` prints."""
    return {
        "tensorrt": target.tensorrt,
        "gpu": target.gpu,
        "batch": {"smallest": batches.smallest, "usual": batches.usual, "largest": batches.largest},
        "engines": [
            {"file": str(path), "bytes": path.stat().st_size, "built": built}
            for path, built in plans
        ],
    }


def build_report(
    plans: Sequence[tuple[Path, bool]], target: Target, batches: Batches
) -> RenderableType:
    """Return what `edgewf build` shows."""
    title = f"{target.tensorrt}, GPU {target.gpu}, batch {batches.smallest} to {batches.largest}"
    table = Table(title=Text(title), box=box.SIMPLE, title_justify="left")
    table.add_column("engine", style="bold", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for path, built in plans:
        table.add_row(path.name, _size(path.stat().st_size), "built" if built else "was there")
    return table


def calibration_report(calibration: Calibration) -> RenderableType:
    """Return what `edgewf calibrate` shows at its end."""
    table = _pairs(f"calibration of {calibration.model}")
    for name, value in _calibration_rows(calibration):
        table.add_row(name, value)
    table.add_row("burst", burst_text(calibration.settings))
    return table


def estimate_report(estimate: Estimate, settings: BurstSettings, available: int) -> RenderableType:
    """Return what `edgewf estimate` shows."""
    table = _pairs(f"{estimate.model} on {estimate.source}")
    if estimate.accuracy is None or estimate.interval is None:
        table.add_row("accuracy", "unknown: the bundle has no calibration")
    else:
        low, high = estimate.interval
        table.add_row(
            "accuracy", f"[bold]{estimate.accuracy:.1f} %[/bold]  (90 %: {low:.1f} to {high:.1f})"
        )
    if estimate.true_accuracy is not None:
        table.add_row("true accuracy", f"{estimate.true_accuracy:.1f} %")
        if estimate.accuracy is not None:
            table.add_row("error", f"{estimate.accuracy - estimate.true_accuracy:+.1f} points")
    error = ""
    if estimate.true_accuracy is not None:
        error = f"  (error {estimate.average_confidence - estimate.true_accuracy:+.1f})"
    table.add_row("average confidence", f"{estimate.average_confidence:.1f} %{error}")
    table.add_row("flips", f"{estimate.flips:.0f} of 1,000, weighted {estimate.weighted_flips:.1f}")
    table.add_row("adapted on", f"{100 * estimate.selected_share:.0f} % of the samples")
    table.add_row("frames", f"{estimate.frames} of {available}")
    stopped = f"; stopped after {estimate.steps}" * (estimate.steps < settings.steps)
    table.add_row("burst", f"{burst_text(settings)}{stopped}")
    flags = "\n".join(f"{flag}: {REASONS[flag]}" for flag in estimate.flags)
    table.add_row("flags", flags or "none")
    return table


def summary_line(summary: WatchSummary) -> str:
    """Return the last line of `edgewf monitor`."""
    how = "interrupted" if summary.interrupted else "finished"
    rest = f", {summary.leftover} left over" if summary.leftover else ""
    if summary.failed:
        rest += f"; {summary.failed} bursts failed"
    noun = "estimate" if summary.windows == 1 else "estimates"
    return (
        f"{how} after {summary.windows} {noun}: {summary.seen} frames seen, {summary.kept} "
        f"used, {summary.dropped} near-duplicates{rest}"
    )


def burst_text(settings: BurstSettings) -> str:
    """Describe a burst in one line."""
    return (
        f"{settings.objective}, {settings.steps} steps of {settings.batch_size} on windows of "
        f"{settings.window}, learning rate {settings.learning_rate:g}"
    )


@contextmanager
def calibration_progress(
    console: Console,
) -> Iterator[Callable[[int, int, Point | None], None]]:
    """Show finished points; yields the callback that `calibrate` takes."""
    with _progress(console) as progress:
        task = progress.add_task("calibrating", total=None)

        def on_point(done: int, total: int, point: Point | None) -> None:
            if point is None and done:
                progress.console.print(f"going on from {done} finished points")
            text = "calibrating"
            if point is not None:
                text = f"{point.shift} {point.severity}: accuracy {point.accuracy:.1f} %"
            progress.update(task, completed=done, total=total, description=text)

        yield on_point


@contextmanager
def burst_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show the calls of one burst; yields the callback that `run_burst` takes."""
    with _progress(console) as progress:
        task = progress.add_task("burst", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def bench_progress(console: Console) -> Iterator[Callable[[float, str], None]]:
    """Show how far a benchmark is; yields the callback that `edgewf.bench.run` takes."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("measuring", total=1.0)
        yield lambda share, doing: progress.update(task, completed=share, description=doing)


@contextmanager
def check_progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Show the graph that TensorRT is at; yields the callback that `check_bundle` takes."""
    with _progress(console) as progress:
        task = progress.add_task("building", total=None)
        yield lambda done, total, graph: progress.update(
            task, completed=done, total=total, description=f"building {graph}"
        )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _calibration_rows(calibration: Calibration) -> list[tuple[str, RenderableType]]:
    estimator, accuracies = calibration.estimator(), [p.accuracy for p in calibration.points]
    error, without = estimator.curve.residual_std, calibration.error_without_steps()
    rows: list[tuple[str, RenderableType]] = [
        ("calibration", Text(calibration.description)),
        (
            "points",
            f"{len(accuracies)} windows of {min(accuracies):.1f} to {max(accuracies):.1f} %",
        ),
        ("accuracy", str(estimator)),
        ("its error", f"{error:.2f} points (standard deviation)"),
    ]
    if without is not None:
        advice = (
            "so `edgewf calibrate` with --steps 0 would do, and bursts be shorter"
            if without <= error * _AS_GOOD
            else "so the steps are worth their time"
        )
        rows.append(("without steps", f"{without:.2f} points, {advice}"))
    return rows


def _pairs(title: str) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE, show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
