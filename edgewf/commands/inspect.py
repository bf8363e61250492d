"""`edgewf inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgewf.commands.options import stderr_console


@click.command(epilog="Example: edgewf inspect bundles/efficientnet_lite0")
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Check a bundle and show what is inside."""
    from edgewf.bundle import Bundle
    from edgewf.report import bundle_record, bundle_report

    loaded = Bundle.load(bundle)
    if as_json:
        click.echo(json.dumps(bundle_record(loaded)))
    else:
        stderr_console().print(bundle_report(loaded))
