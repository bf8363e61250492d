"""`edgewf bench`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewf.commands.groups import GroupedCommand
from edgewf.commands.options import ENGINES, stderr_console
from edgewf.errors import EdgewfError

if TYPE_CHECKING:
    from rich.console import RenderableType

ALL = "all"


@click.command(
    cls=GroupedCommand,
    groups={
        "What to measure": ("engines", "batches", "threads", "steps", "window"),
        "How long": ("seconds", "rounds"),
    },
    epilog="""\b
Several BUNDLEs compare models or precisions. With --compare, FILEs that --json wrote stand beside
what is measured now, or beside each other.
Examples:
  edgewf bench bundles/efficientnet_lite0
  edgewf bench bundles/resnet50 --engine all --batch-size 16 --batch-size 50 --json > orin.json
  edgewf bench --compare xavier.json orin.json
  edgewf bench bundles/resnet50 bundles/resnet50-fp16 --budget 2s
""",
)
@click.argument(
    "inputs", metavar="BUNDLE|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice([*ENGINES, ALL]),
    help="May be repeated; all: whatever can run here.  [auto; all with --budget]",
)
@click.option(
    "--batch-size",
    "batches",
    multiple=True,
    type=click.IntRange(2),
    metavar="B",
    help="Frames a batch, may be repeated.  [the bundle's]",
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1),
    metavar="N",
    help="Of a CPU engine, may be repeated.  [its choice]",
)
@click.option(
    "--steps",
    multiple=True,
    type=click.IntRange(0),
    metavar="N",
    help="Of an estimate, may be repeated.  [the bundle's]",
)
@click.option(
    "--window", type=click.IntRange(2), metavar="N", help="Frames of an estimate.  [the bundle's]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=10,
    show_default=True,
    help="At most for single calls, and again for estimates, a case and round.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Through all cases; what drifts shows between them.",
)
@click.option("--compare", "comparing", is_flag=True, help="Show ratios to the first FILE.")
@click.option(
    "--budget", "budget_text", metavar="TIME|ENERGY", help="Propose bursts that cost at most this."
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="PNG or SVG."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def bench(
    inputs: tuple[Path, ...],
    engines: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    steps: tuple[int, ...],
    window: int | None,
    seconds: float,
    rounds: int,
    comparing: bool,
    budget_text: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure what bursts cost on this device, and where the time goes."""
    from edgewf.bench.budget import Budget, check_sensors, propose, smaller_too
    from edgewf.bench.case import cases, engines_here, usual_settings
    from edgewf.bench.compare import compare, to_json
    from edgewf.bench.plot import check, draw
    from edgewf.bench.result import read_result
    from edgewf.bench.run import run
    from edgewf.bench.table import comparison_report, proposal_report, result_report
    from edgewf.bundle import Bundle
    from edgewf.report import bench_progress

    files = [path for path in inputs if path.is_file()]
    folders = [path for path in inputs if not path.is_file()]
    _refuse(files, folders, comparing, budget_text is not None, plot is not None)
    budget = None if budget_text is None else Budget.parse(budget_text)
    if budget is not None:
        check_sensors(budget)
    if plot is not None:
        check(plot)
    console = stderr_console()
    shown: list[RenderableType] = []
    results = [(path.name, read_result(path)) for path in files]
    record: dict[str, Any] = {}
    if folders:
        bundles = [Bundle.load(folder) for folder in folders]
        usual = {str(b.folder): usual_settings(b) for b in bundles}
        names = engines_here(engines or [ENGINES[0] if budget is None else ALL])
        sizes = batches or ([] if budget is None else smaller_too(list(usual.values())))
        chosen = cases(bundles, names, sizes, threads, steps, window)
        with bench_progress(console) as progress:
            record = run(chosen, seconds=seconds, rounds=rounds, progress=progress)
        results.append(("now", record))
        shown.append(result_report(record))
        if plot is not None:
            draw(record, plot)
    if comparing:
        found = [compare(results[0][1], later) for _, later in results[1:]]
        record["comparisons"] = to_json([name for name, _ in results], found)
        shown.append(comparison_report([name for name, _ in results], found))
    if budget is not None:
        proposals = propose(budget, record["cases"], usual)
        with bench_progress(console) as progress:
            case = proposals[0].as_case(usual[proposals[0].bundle])
            best = run([case], seconds=seconds, rounds=1, progress=progress)
        verified = budget.cost(best["cases"][0]["estimates"][0])
        record["proposals"] = [x.to_json() for x in proposals]
        record["proposals"][0]["verified"] = verified
        shown.append(proposal_report(budget, proposals, verified))
    if as_json:
        click.echo(json.dumps(record))
    else:
        console.print(*shown, sep="\n")


def _refuse(
    files: Sequence[Path], folders: Sequence[Path], compare: bool, budget: bool, plot: bool
) -> None:
    """Refuse arguments that do not go together, before anything is measured."""
    if compare and len(files) + bool(folders) < 2:
        raise EdgewfError("--compare needs two FILEs that --json wrote, or one and a BUNDLE")
    if files and not compare:
        raise EdgewfError(f"{files[0]} is a file: give a BUNDLE, or --compare for earlier results")
    if (budget or plot) and not folders:
        raise EdgewfError("--budget and --plot need a BUNDLE to measure")
