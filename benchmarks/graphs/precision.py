"""Weighted flips of an fp16 bundle beside those of the fp32 one, on real images.

    python -m benchmarks.graphs.precision --data DIR

Both run in ONNX Runtime on the CPU, which computes an fp16 operator in float32 and rounds what it
writes, as the graph says. DIR has labelled folders, or is a folder of images of any kind.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track

from benchmarks.graphs.networks import bundle, entropy_gradient
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines import Images
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.flips import count_flips
from edgewf.images import image_files, read_image
from edgewf.shifts import shift

CELLS = (("clean", 0), ("speckle_noise", 3), ("gaussian_blur", 3), ("saturate", 5))


def window(of: Bundle, data: Path) -> Images:
    """Read as many images as a window has, always the same ones: uint8 [N, S, S, 3]."""
    paths = image_files(data)
    size = of.manifest.burst.window
    if len(paths) < size:
        raise EdgewfError(f"{data}: {len(paths)} images, a window has {size}")
    chosen = np.random.default_rng(0).permutation(len(paths))[:size]
    return np.stack([of.manifest.preprocessing(read_image(paths[i])) for i in chosen])


def measure(model: str, data: Path) -> list[dict[str, Any]]:
    """Return a row for each cell."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bundles = [bundle(model, Path(folder) / p, precision=p) for p in ("fp32", "fp16")]
        single, half = (OnnxRuntimeCPU(x) for x in bundles)
        images = window(bundles[0], data)
        settings = bundles[0].manifest.burst
        for name, severity in track(CELLS, model):
            frames = shift(name, images, severity, seed=0)
            a, b = (run_burst(engine, frames, settings) for engine in (single, half))
            for engine in (single, half):
                engine.reset(settings)  # from the deployed scales and shifts
            exact, rounded = (
                entropy_gradient(x, frames[: settings.batch_size]) for x in (single, half)
            )
            rows.append(
                {
                    "model": model,
                    "cell": f"{name} {severity}",
                    "frames": len(frames),
                    "weighted_flips": {
                        precision: count_flips(x.record.deployed, x.record.after.label).weighted
                        for precision, x in (("fp32", a), ("fp16", b))
                    },
                    "same_labels": float((a.record.after.label == b.record.after.label).mean()),
                    "gradient_error": float(
                        np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
                    ),
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| model | images | weighted flips, fp32 | fp16 | difference | same labels after "
        "| gradient error |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        single, half = r["weighted_flips"]["fp32"], r["weighted_flips"]["fp16"]
        lines.append(
            f"| {r['model']} | {r['cell']} | {single:.1f} | {half:.1f} "
            f"| {100 * (half - single) / single:+.1f} % | {100 * r['same_labels']:.1f} % "
            f"| {r['gradient_error']:.1e} |"
        )
    return "\n".join(lines)


@click.command(cls=ExplainingCommand)
@click.option("--models", multiple=True, default=("efficientnet_lite0",), show_default=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/graphs")
)
def main(models: tuple[str, ...], data: Path, output: Path) -> None:
    """Compare the two precisions of each model."""
    rows = [row for model in models for row in measure(model, data)]
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe_machine(), "rows": rows}
    (output / "precision.json").write_text(json.dumps(record, indent=1) + "\n")
    text = (
        "# fp16 beside fp32\n\n`python -m benchmarks.graphs.precision`: windows of "
        f"{rows[0]['frames']} images of {data.name}, the bundle's own burst, flips from the "
        f"deployed labels per 1,000 frames; {machine_line()}\n\n{table(rows)}\n\nGradient error: "
        "relative L2 distance of the fp16 bundle's gradient from the fp32 one's; rounding the "
        "weights alone moves it by 4.4e-2 (see tests/test_precision_and_memory.py).\n"
    )
    (output / "precision.md").write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
