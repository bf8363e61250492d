"""`edgewf doctor`."""

from __future__ import annotations

import json

import click

from edgewf.commands.options import stderr_console


@click.command(epilog="Example: edgewf doctor --json | jq .engines")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def doctor(as_json: bool) -> None:
    """Say what this machine has, and which engines can run on it."""
    from edgewf.doctor import examine
    from edgewf.doctor.table import doctor_report

    console = stderr_console()
    with console.status("looking around"):
        findings = examine()
    if as_json:
        click.echo(json.dumps(findings))
    else:
        console.print(doctor_report(findings))
