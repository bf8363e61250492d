"""`edgewf history`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgewf.commands.groups import GroupedCommand
from edgewf.commands.options import stderr_console

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    cls=GroupedCommand,
    groups={
        "Which estimates": ("since", "until", "below", "flags", "last"),
        "Where to": ("as_json", "csv", "jsonl", "parquet", "plot"),
    },
    epilog="""\b
WHEN is how long ago (90m, 12h, 2d, 3w) or a date and time (2026-03-01, 2026-03-01T14:30).
Examples:
  edgewf history front-door.db
  edgewf history front-door.db --since 2d --below 70
  edgewf history front-door.db --since 2026-03-01 --csv march.csv --plot march.png
""",
)
@click.argument("store", metavar="STORE", type=_FILE)
@click.option("--since", metavar="WHEN", help="The first.")
@click.option("--until", metavar="WHEN", help="The last.")
@click.option(
    "--below", type=click.FloatRange(0, 100), metavar="PERCENT", help="Of a lower accuracy."
)
@click.option("--flag", "flags", multiple=True, metavar="FLAG", help="With it; may be repeated.")
@click.option("--last", type=click.IntRange(1), metavar="N", help="The newest N of them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.option("--csv", type=_FILE, metavar="FILE", help="Write a table.")
@click.option("--jsonl", type=_FILE, metavar="FILE", help="Write one JSON object a line.")
@click.option("--parquet", type=_FILE, metavar="FILE", help="Write a table; needs pyarrow.")
@click.option("--plot", type=_FILE, metavar="FILE", help="Write a PNG or SVG.")
def history(
    store: Path,
    since: str | None,
    until: str | None,
    below: float | None,
    flags: tuple[str, ...],
    last: int | None,
    as_json: bool,
    csv: Path | None,
    jsonl: Path | None,
    parquet: Path | None,
    plot: Path | None,
) -> None:
    """Show what a monitor with --store has estimated."""
    from edgewf import history as past
    from edgewf.errors import EdgewfError
    from edgewf.flags import REASONS
    from edgewf.telemetry.past import past_report
    from edgewf.telemetry.store import Store

    unknown = [flag for flag in flags if flag not in REASONS]
    if unknown:
        raise EdgewfError(f"no flag {unknown[0]!r}: use one of {', '.join(REASONS)}")
    first, final = (None if text is None else past.moment(text) for text in (since, until))
    with Store(store, read_only=True) as opened:
        stored = opened.estimates(first, final)
        reports = opened.health(first, final, last=1)
        runs = opened.runs()
    records = past.chosen([x.record for x in stored], below=below, flags=flags)
    records = records[-last:] if last is not None else records
    if csv is not None:
        past.write_csv(records, csv)
    if jsonl is not None:
        past.write_jsonl(records, jsonl)
    if parquet is not None:
        past.write_parquet(records, parquet)
    if plot is not None:
        from edgewf.history_plot import draw

        draw(records, plot)
    health = reports[-1].record if reports else None
    if as_json:
        result = {"store": str(store), "runs": runs, "estimates": records, "health": health}
        click.echo(json.dumps(result))
    else:
        console = stderr_console()
        console.print(past_report(str(store), records, runs, health, console.width))
