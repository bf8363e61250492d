"""`edgewf estimate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgewf.commands.options import burst_options, estimator_option, open_bundle, stderr_console


@click.command(
    epilog="""\b
Examples:
  edgewf estimate bundles/efficientnet_lite0 --data frames/
  edgewf estimate bundles/efficientnet_lite0 --data imagenet-val --labelled --json
"""
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", metavar="DIR|VIDEO", required=True, help="Folder of images, or a video.")
@click.option("--labelled", is_flag=True, help="Sub-folder names are the truth; show the error.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@estimator_option
@burst_options
def estimate(
    bundle: Path,
    data: str,
    labelled: bool,
    as_json: bool,
    estimator_name: str,
    engine_name: str,
    threads: int | None,
    **burst: Any,
) -> None:
    """Estimate the accuracy on one window drawn from images or a video."""
    import time

    from edgewf.engines.select import select_engine
    from edgewf.estimation import Estimator
    from edgewf.report import burst_progress, estimate_report
    from edgewf.stream import draw_window, open_source

    console = stderr_console()
    loaded, calibration, settings = open_bundle(bundle, burst)
    # Refuses settings that do not fit before it reads a long video.
    selection = select_engine(engine_name, loaded, threads)
    estimator = Estimator(loaded, selection.engine, calibration, settings, estimator_name)
    source = open_source(data, labels=loaded.labels if labelled else None, seed=settings.seed)
    window, available = draw_window(
        source, loaded.manifest.preprocessing, settings.window, settings.seed
    )
    click.echo(f"edgewf: {selection}", err=True)
    with burst_progress(console) as progress:
        result = estimator(
            window.images, window.labels, source=source.uri, time=time.time(), progress=progress
        )
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        console.print(estimate_report(result, settings, available))
