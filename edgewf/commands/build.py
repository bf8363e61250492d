"""`edgewf build`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgewf.commands.options import stderr_console


@click.command(
    epilog="""\b
Engines are built for this machine's GPU; those of TensorRT for RTX fit any, and need none to be
built. They are kept in BUNDLE/engines and built again where graphs, TensorRT or GPU changed.
Examples:
  edgewf build bundles/efficientnet_lite0
  edgewf build bundles/resnet50 --batch-size 100 --json
"""
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    metavar="B",
    help="Frames a batch of the bursts to come.  [default: the bundle's]",
)
@click.option("--force", is_flag=True, help="Build engines that are already there again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def build(bundle: Path, batch_size: int | None, force: bool, as_json: bool) -> None:
    """Build a bundle's TensorRT engines ahead of time."""
    from edgewf.bundle import Bundle
    from edgewf.engines.tensorrt_builder import PlanBuilder
    from edgewf.engines.tensorrt_plans import batches_for, build_plans, target_here
    from edgewf.report import build_record, build_report, check_progress

    console = stderr_console()
    loaded = Bundle.load(bundle)
    builder = PlanBuilder()
    target = target_here(builder.version)
    batches = batches_for(loaded, batch_size or loaded.manifest.burst.batch_size)
    with check_progress(console) as on_graph:
        plans = build_plans(loaded, batches, target, lambda: builder, on_graph, force=force)
    if as_json:
        click.echo(json.dumps(build_record(plans, target, batches)))
    else:
        console.print(build_report(plans, target, batches))
