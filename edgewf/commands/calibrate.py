"""`edgewf calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgewf.commands.options import burst_options, stderr_console


@click.command(
    epilog="""\b
The sub-folders of DIR name the classes by id (wnid), name or index.
Interrupt it at any time: finished points are kept and the next call goes on from them.
Example: edgewf calibrate bundles/efficientnet_lite0 --data imagenet-val
"""
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", metavar="DIR", required=True, help="Labelled images.")
@click.option(
    "--windows",
    type=click.IntRange(1),
    metavar="W",
    help="Disjoint sets of images, each shifted in every way.  [default: 2 if there are enough]",
)
@click.option("--description", metavar="TEXT", help="Recorded with the result.  [default: DIR]")
@burst_options
def calibrate(
    bundle: Path,
    data: str,
    windows: int | None,
    description: str | None,
    engine_name: str,
    threads: int | None,
    **burst: Any,
) -> None:
    """Run bursts on shifted labelled images, which estimators are fitted to."""
    from edgewf.bundle import Bundle
    from edgewf.calibrate import calibrate as run
    from edgewf.calibrate import draw_windows
    from edgewf.engines.select import select_engine
    from edgewf.images import labelled_images
    from edgewf.report import calibration_progress, calibration_report

    console = stderr_console()
    loaded = Bundle.load(bundle)
    settings = loaded.manifest.burst.with_changes(**burst)
    images = labelled_images(data, loaded.labels)
    count = windows or min(2, max(1, len(images) // settings.window))
    drawn = draw_windows(images, settings, count)
    selection = select_engine(engine_name, loaded, threads)
    click.echo(f"edgewf: {selection}", err=True)
    with calibration_progress(console) as on_point:
        try:
            result = run(
                loaded,
                selection.engine,
                drawn,
                settings,
                description=description or str(data),
                on_point=on_point,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("finished points are kept") from None
    console.print(calibration_report(result))
