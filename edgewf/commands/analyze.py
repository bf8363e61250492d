"""`edgewf analyze`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgewf.commands.options import burst_options, stderr_console

_STEPS = 200


@click.command(
    epilog=f"""\b
Without --steps it takes {_STEPS}. The other options of the burst default to those of the
calibration, which need not be kept here: no accuracy is estimated.
Examples:
  edgewf analyze bundles/efficientnet_lite0 --data frames/ --steps 300
  edgewf analyze bundles/resnet20 --data noisy/ --labelled --learning-rate 0.1 --output phases/
"""
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", metavar="DIR|VIDEO", required=True, help="Folder of images, or a video.")
@click.option(
    "--labelled", is_flag=True, help="Sub-folder names are the truth; show the true accuracy."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write phases.json and a picture there; needs matplotlib.",
)
@click.option(
    "--format",
    "picture",
    type=click.Choice(["png", "svg"]),
    default="png",
    show_default=True,
    help="Of the picture.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@burst_options
def analyze(
    bundle: Path,
    data: str,
    labelled: bool,
    output: Path | None,
    picture: str,
    as_json: bool,
    engine_name: str,
    threads: int | None,
    **burst: Any,
) -> None:
    """Follow a long burst, and show where its first phase ends and its second begins.

    At first entropy minimisation draws the embeddings toward those of clean images; after many
    steps they drift away, and accuracy falls (Press et al., ICML 2024).
    """
    from edgewf.bundle import Bundle, write_text
    from edgewf.calibration import Calibration
    from edgewf.engines.select import select_engine
    from edgewf.figures import check_matplotlib
    from edgewf.phases.centroids import Centroids
    from edgewf.phases.plot import draw
    from edgewf.phases.table import trajectory_report
    from edgewf.phases.trajectory import follow
    from edgewf.report import burst_progress, burst_text
    from edgewf.stream import draw_window, open_source

    console = stderr_console()
    loaded = Bundle.load(bundle)
    calibration = Calibration.of(loaded)
    base = loaded.manifest.burst if calibration is None else calibration.settings
    settings = base.with_changes(
        **{**burst, "steps": _STEPS if burst["steps"] is None else burst["steps"]}
    )
    centroids = Centroids.of(loaded)
    if centroids is None:
        click.echo(
            f"edgewf: {bundle} has no centroids of clean images, so distances and phases stay "
            f"unknown: run `edgewf calibrate {bundle} --data DIR` on labelled images",
            err=True,
        )
    if output is not None:
        check_matplotlib("--output")
        output.mkdir(parents=True, exist_ok=True)
    selection = select_engine(engine_name, loaded, threads)
    source = open_source(data, labels=loaded.labels if labelled else None, seed=settings.seed)
    window, _ = draw_window(source, loaded.manifest.preprocessing, settings.window, settings.seed)
    click.echo(f"edgewf: {selection}", err=True)
    with burst_progress(console) as progress:
        trajectory = follow(
            selection.engine, window.images, settings, centroids, window.labels, progress
        )
    title = f"{loaded.manifest.model} on {source.uri}: {burst_text(settings)}"
    record = {
        "model": loaded.manifest.model,
        "source": source.uri,
        "engine": selection.engine.name,
        "settings": settings.to_json(),
        **trajectory.to_json(),
    }
    if output is not None:
        write_text(output / "phases.json", json.dumps(record, indent=1) + "\n")
        draw(trajectory, output / f"phases.{picture}", title)
    if as_json:
        click.echo(json.dumps(record))
    else:
        console.print(trajectory_report(trajectory, title))
