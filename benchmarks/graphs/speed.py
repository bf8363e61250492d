"""One step side by side: edgewf's engines and PyTorch eager, alternating in one run.

    python -m benchmarks.graphs.speed

A step is forward with batch statistics, entropy, and the gradient with respect to BatchNorm
scales and shifts. Every row's gradient is compared with float64 autograd in the same run.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.graphs.networks import build, bundle, entropy_gradient, gradient, normalised
from benchmarks.machine import describe_machine, machine_line
from benchmarks.pictures import photographs, pieces
from edgewf.engines.host import HostEngine
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.engines.openvino_cpu import OpenVINOCPU

MODELS = ("resnet50", "efficientnet_lite0", "mobilenet_v2")
BASELINE = "PyTorch eager"


def measure(name: str, batch: int, repeats: int, threads: int) -> dict[str, Any]:
    """Return medians in seconds, and gradient errors, of each row for one model."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        exported = bundle(name, Path(folder) / name)
        images = pieces(photographs(), exported.manifest.preprocessing, batch)
        x = normalised(images, exported)
        module, last = build(name), build(name).to(memory_format=torch.channels_last)
        x_last = x.contiguous(memory_format=torch.channels_last)
        engines: list[HostEngine] = [
            OnnxRuntimeCPU(exported, threads=threads),
            OpenVINOCPU(exported, threads=threads),
        ]
        steps: dict[str, Callable[[], NDArray[np.float32]]] = {
            f"edgewf, {e.name}": lambda e=e: entropy_gradient(e, images) for e in engines
        }
        steps[BASELINE] = lambda: gradient(module, x)
        steps["PyTorch eager, channels_last"] = lambda: gradient(last, x_last)
        truth = gradient(build(name).double(), x.double())
        errors = {
            row: float(np.linalg.norm(step() - truth) / np.linalg.norm(truth))
            for row, step in steps.items()
        }
        times = _alternate(steps, repeats)
        infer = _alternate(
            {f"edgewf, {e.name}": lambda e=e: e.infer(images) for e in engines}, repeats
        )
    return {"model": name, "batch": batch, "seconds": times, "error": errors, "infer": infer}


def _alternate(steps: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time every row once a round, so that a change of clock or load meets all alike."""
    times: dict[str, list[float]] = {row: [] for row in steps}
    for round_ in range(repeats + 2):
        for row, step in steps.items():
            start = time.perf_counter()
            step()
            if round_ >= 2:
                times[row].append(time.perf_counter() - start)
    return times


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| model | row | step, s | range | PyTorch eager / row | gradient error | step / infer |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        medians = {row: statistics.median(t) for row, t in r["seconds"].items()}
        for row, seconds in medians.items():
            spread = f"{min(r['seconds'][row]):.3f} to {max(r['seconds'][row]):.3f}"
            infer = r["infer"].get(row)
            share = f"{seconds / statistics.median(infer):.1f}" if infer else ""
            lines.append(
                f"| {r['model']} | {row} | {seconds:.3f} | {spread} | "
                f"{medians[BASELINE] / seconds:.2f} | {r['error'][row]:.1e} | {share} |"
            )
    return "\n".join(lines)


@click.command()
@click.option("--models", multiple=True, default=MODELS, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--repeats", default=9, show_default=True)
@click.option("--threads", type=int, default=os.cpu_count() or 1, help="Of every row.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/graphs")
)
def main(models: tuple[str, ...], batch: int, repeats: int, threads: int, output: Path) -> None:
    """Time a step of each model in each row."""
    load = os.getloadavg()[0]
    results = [measure(name, batch, repeats, threads) for name in track(models, "timing")]
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe_machine(), "load_before": load, "results": results}
    (output / "speed.json").write_text(json.dumps(record, indent=1) + "\n")
    text = (
        f"# One step, side by side\n\n`python -m benchmarks.graphs.speed`: batch {batch} at "
        f"224 x 224, {threads} threads, medians of {repeats} alternating rounds; {machine_line()}; "
        f"load average before the run {load:.1f}\n\n{table(results)}\n\nGradient error: relative "
        "L2 against float64 autograd (random weights but for efficientnet_lite0).\n"
    )
    (output / "speed.md").write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
