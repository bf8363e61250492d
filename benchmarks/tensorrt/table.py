"""Every graph of representative networks through TensorRT: does it parse, does it build?

    python -m benchmarks.tensorrt.table --precision fp32 --precision fp16

Plans take any batch from 1 to 64. The weights are random: TensorRT for RTX picks kernels on the
device, so they only fill space. A finished model is kept, and is built again where its graphs or
TensorRT have changed.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import onnx
import torch
from rich.progress import track

from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import GRAPHS, Bundle, write_text
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines.tensorrt_builder import Batches, PlanBuilder, check_bundle
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source

MODELS = (
    "resnet50",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "googlenet",
    "efficientnet_lite0",
)

Row = dict[str, Any]


def export(name: str, precision: str, folder: Path) -> Bundle:
    """Export a network with the same random weights every time."""
    torch.manual_seed(0)
    return export_bundle(load_source(name, weights="none"), folder, precision=precision)


def hashes(bundle: Bundle) -> dict[str, str]:
    """Return what a finished row is compared by."""
    return {name: bundle.manifest.files[name]["sha256"] for name in GRAPHS}


def build(bundle: Bundle, precision: str, builder: PlanBuilder) -> Row:
    """Build all graphs of one bundle."""
    stamps = []
    verdicts = check_bundle(
        bundle, builder, lambda done, total, graph: stamps.append(time.process_time())
    )
    stamps.append(time.process_time())
    batches = Batches.of(bundle)
    return {
        "model": bundle.manifest.model,
        "precision": precision,
        "tensorrt": builder.version,
        "batches": asdict(batches),
        "hashes": hashes(bundle),
        "graphs": [
            {
                **asdict(verdict),
                "cpu_seconds": end - start,
                # The bundle lay in a folder that is gone.
                "error": verdict.error and str(verdict.error).replace(f"{bundle.folder}/", ""),
                "nodes": len(
                    onnx.load(bundle.path(verdict.graph), load_external_data=False).graph.node
                ),
            }
            for verdict, (start, end) in zip(verdicts, pairwise(stamps), strict=True)
        ],
    }


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| model | precision | graph | nodes | layers | CPU s | plan, MiB | verdict |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        for g in row["graphs"]:
            start = f"| {row['model']} | {row['precision']} | {g['graph']} | {g['nodes']} |"
            if g["error"] is None:
                figures = f"{g['layers']} | {g['cpu_seconds']:.1f} | {g['plan_bytes'] / 2**20:.1f}"
                lines.append(f"{start} {figures} | builds |")
            else:
                lines.append(f"{start} | | | {' '.join(g['error'].split())} |")
    return "\n".join(lines)


def write(rows: list[Row], output: Path) -> None:
    """Write table.json and table.md."""
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe_machine(), "rows": rows}
    write_text(output / "table.json", json.dumps(record, indent=1) + "\n")
    refused = sum(g["error"] is not None for row in rows for g in row["graphs"])
    count = sum(len(row["graphs"]) for row in rows)
    versions = ", ".join(sorted({row["tensorrt"] for row in rows}))
    batches = Batches(**rows[0]["batches"])
    write_text(
        output / "table.md",
        "# What TensorRT makes of the graphs\n\n`python -m benchmarks.tensorrt.table`: "
        f"{versions}, no GPU, strongly typed networks, batch {batches.smallest} to "
        f"{batches.largest} (best at {batches.usual}); {machine_line()}\n\n"
        f"{count - refused} of {count} graphs build.\n\n"
        f"{table(rows)}\n\nNodes: of the ONNX graph. Layers: of TensorRT's network, before it is "
        "optimised. CPU s: processor time to parse and build.\n",
    )


@click.command(cls=ExplainingCommand)
@click.option("--models", multiple=True, default=MODELS, show_default=True)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp32", "fp16"]),
    default=("fp32",),
    show_default=True,
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/tensorrt")
)
def main(models: tuple[str, ...], precisions: tuple[str, ...], output: Path) -> None:
    """Build every graph of each model in each precision."""
    builder = PlanBuilder()
    kept = output / "table.json"
    found = json.loads(kept.read_text())["rows"] if kept.exists() else []
    rows = {(row["model"], row["precision"]): row for row in found}
    todo = [(name, precision) for precision in precisions for name in models]
    for name, precision in track(todo, "building"):
        with tempfile.TemporaryDirectory() as folder:
            bundle = export(name, precision, Path(folder) / name)
            old = rows.get((name, precision), {})
            if (old.get("hashes"), old.get("tensorrt")) != (hashes(bundle), builder.version):
                rows[name, precision] = build(bundle, precision, builder)
        write(list(rows.values()), output)
    click.echo(table(list(rows.values())))


if __name__ == "__main__":
    main()
