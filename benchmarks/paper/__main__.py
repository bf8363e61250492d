"""The paper's data sets: Weighted Flips as published, and our default, beside its figures.

    python -m benchmarks.paper DATA_ROOT --model resnet50 --weights resnet50-0676ba61.pth

docs/paper.md has the layouts. Finished cells are kept, so an interrupted run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.machine import describe_machine, machine_line
from benchmarks.paper.published import (
    BATCH,
    MODEL,
    PROBE_BATCH,
    PROBES,
    RESIZE,
    STEPS,
    WEIGHTS,
    WEIGHTS_URL,
    paper_settings,
)
from benchmarks.paper.run import Protocol, Results, Tick, run_cell
from benchmarks.paper.splits import Cell, Split, chosen_splits
from benchmarks.paper.table import rows, summary, table
from edgewf.bundle import Bundle, write_text
from edgewf.calibration import Calibration
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines.select import select_engine
from edgewf.errors import EdgewfError
from edgewf.estimation import Estimator


@click.command(cls=ExplainingCommand)
@click.argument("root", metavar="DATA_ROOT", type=click.Path(path_type=Path))
@click.option("--model", default=MODEL, show_default=True, help="Exported if there is no --bundle.")
@click.option("--weights", metavar="FILE", help="Of --model; for resnet50 torchvision's first.")
@click.option("--bundle", type=click.Path(path_type=Path), metavar="DIR", help="Exported already.")
@click.option("--splits", metavar="A,B,…", default="", help="[default: all that are there]")
@click.option("--severities", metavar="S,…", default="1,2,3,4,5", show_default=True)
@click.option("--steps", type=click.IntRange(0), default=STEPS, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=BATCH, show_default=True)
@click.option("--probes", type=click.IntRange(2), default=PROBES, show_default=True)
@click.option("--probe-batch", type=click.IntRange(2), default=PROBE_BATCH, show_default=True)
@click.option("--truth", type=click.IntRange(1), default=50_000, show_default=True, help="Images.")
@click.option("--windows", type=click.IntRange(0), default=4, show_default=True, help="Default's.")
@click.option("--engine", "engine_name", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1))
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("build/paper"), show_default=True
)
def main(
    root: Path,
    model: str,
    weights: str | None,
    bundle: Path | None,
    splits: str,
    severities: str,
    steps: int,
    batch_size: int,
    probes: int,
    probe_batch: int,
    truth: int,
    windows: int,
    engine_name: str,
    threads: int | None,
    output: Path,
) -> None:
    """Run the paper's protocol on the data sets below DATA_ROOT and print its table."""
    console = Console(stderr=True)
    chosen = chosen_splits(root, [x.strip() for x in splits.split(",") if x.strip()])
    cells = [(s, cell) for s in chosen for cell in s.cells(root, _severities(severities))]
    loaded = Bundle.load(bundle or _exported(model, weights, output))
    calibration = Calibration.of(loaded)
    if calibration is None:
        console.print(
            f"{loaded.folder} has no calibration, so the default estimator stays out: "
            f"`edgewf calibrate {loaded.folder} --data IMAGENET_VAL` adds it"
        )
    protocol = Protocol(
        paper_settings(loaded.manifest.classes, steps, batch_size, probes),
        probes,
        probe_batch,
        truth,
        windows,
    )
    header = {
        "fingerprint": loaded.manifest.fingerprint,
        "precision": loaded.manifest.precision,
        "calibration": None if calibration is None else calibration.to_text(),
        "settings": protocol.settings.to_json(),
        "protocol": [probes, probe_batch, truth, windows],
    }
    results = Results(output / "results.jsonl", header)
    selection = select_engine(engine_name, loaded, threads)
    click.echo(f"edgewf: {selection}", err=True)
    estimator = None
    if calibration is not None:
        estimator = Estimator(loaded, selection.engine, calibration, calibration.settings)
    found = []
    with _kept(), _progress(console, len(cells)) as on:
        for split, cell in cells:
            done = results.get(split.name, cell.name)
            if done is None:
                done = run_cell(
                    (split.name, cell.name),
                    split.reader(cell.folder, loaded.labels),
                    loaded,
                    selection.engine,
                    estimator,
                    protocol,
                    stored_crop=split.stored_crop,
                    tick=on(split, cell),
                )
                results.keep(done)
            found.append(done)
            on(split, cell)("", 1, 0)
    lines = table(rows(found), loaded.manifest.model, steps)
    text = "\n".join([*lines, "", machine_line()])
    record = {
        "model": loaded.manifest.model,
        "engine": selection.engine.name,
        "settings": protocol.settings.to_json(),
        "machine": describe_machine(),
        **summary(rows(found)),
    }
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "paper.json", json.dumps(record, indent=1) + "\n")
    write_text(output / "paper.md", text + "\n")
    click.echo(text)


def _severities(text: str) -> list[int]:
    parts = [x.strip() for x in text.split(",")]
    if not all(x in {"1", "2", "3", "4", "5"} for x in parts):
        raise EdgewfError(f"--severities {text}: use some of 1 to 5, separated by commas")
    return sorted({int(x) for x in parts})


def _exported(model: str, weights: str | None, output: Path) -> Path:
    """Export the model below `output`, unless an earlier run did with the same weights."""
    folder = output / "bundles" / model.replace("/", "_")
    changes: dict[str, int] = {}
    if model == MODEL:
        if weights is None:
            raise EdgewfError(
                f"the paper's {MODEL} has torchvision's first weights: fetch {WEIGHTS_URL} and "
                f"name it with --weights {WEIGHTS}, or give --bundle"
            )
        changes = {"resize": RESIZE}
    from edgewf.export.exporter import export_bundle
    from edgewf.export.sources.registry import load_source

    source = load_source(model, weights=weights or "default", **changes)
    if (folder / "manifest.json").is_file():
        there = Bundle.load(folder).manifest
        if (there.fingerprint, there.preprocessing) == (source.fingerprint, source.preprocessing):
            return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    export_bundle(source, folder, overwrite=True)
    return folder


@contextmanager
def _kept() -> Iterator[None]:
    """Have an interruption say that finished cells are kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished cells are kept") from None


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[Split, Cell], Tick]]:
    """Show the cells, and what is done in the one under way."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        every = progress.add_task("cells", total=total)
        inner = progress.add_task("", total=1)

        def on(split: Split, cell: Cell) -> Tick:
            def tick(doing: str, done: int, of: int) -> None:
                if not of:
                    progress.advance(every)
                    return
                name = f"{split.title} {cell.name}".strip()
                progress.update(inner, description=f"{name}: {doing}", completed=done, total=of)

            return tick

        yield on


if __name__ == "__main__":
    main()
