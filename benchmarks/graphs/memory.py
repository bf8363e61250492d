"""What waits in memory between forward and backward, and what lies on disk.

    python -m benchmarks.graphs.memory

PyTorch eager's share is counted with saved-tensor hooks: every distinct storage that autograd
keeps for the gradient of the BatchNorm scales and shifts, parameters and buffers excluded.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from rich.progress import track
from torch import Tensor, nn

from benchmarks.graphs.networks import build, bundle
from benchmarks.machine import describe_machine, machine_line
from edgewf.commands.explaining import ExplainingCommand

MODELS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "efficientnet_lite0", "densenet121")
MIB = 2**20


def saved_by_autograd(module: nn.Module, side: int, batch: int = 2) -> float:
    """Return the bytes an image that autograd keeps alive."""
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # or the next tensor may reuse an address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    x = torch.rand(batch, 3, side, side)
    known.add(x.untyped_storage().data_ptr())
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        log_p = module(x).log_softmax(1)
        (-(log_p.exp() * log_p).sum()).backward()
    return sum(kept.values()) / batch


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Return one row of the table."""
    module = build(name)
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    plain = bundle(name, folder / "plain")
    low = bundle(name, folder / "low", low_memory=True)
    half = bundle(name, folder / "half", precision="fp16")
    full, small = (sum(f.stat().st_size for f in b.folder.iterdir()) for b in (plain, half))
    eager = saved_by_autograd(module, plain.manifest.preprocessing.image_size)
    return {
        "model": name,
        "eager_bytes": eager,
        "residual_bytes": plain.manifest.residual_bytes,
        "low_bytes": low.manifest.residual_bytes,
        "low_extra": low.manifest.recomputed,
        "half_bytes": half.manifest.residual_bytes,
        "weights_bytes": weights,
        "bundle_ratio": full / weights,
        "half_bundle_ratio": small / weights,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| model | PyTorch eager | edgewf | share | `--memory low` | its extra work | fp16 | "
        "bundle / weights | fp16 bundle / weights |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['model']} | {r['eager_bytes'] / MIB:.1f} | {r['residual_bytes'] / MIB:.1f} | "
        f"{r['residual_bytes'] / r['eager_bytes']:.2f} | {r['low_bytes'] / MIB:.1f} | "
        f"{100 * r['low_extra']:.0f} % | {r['half_bytes'] / MIB:.1f} | "
        f"{r['bundle_ratio']:.2f} | {r['half_bundle_ratio']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


@click.command(cls=ExplainingCommand)
@click.option("--models", multiple=True, default=MODELS, show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/graphs")
)
def main(models: tuple[str, ...], output: Path) -> None:
    """Measure residual memory and bundle sizes."""
    rows = []
    for name in track(models, "exporting"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, Path(folder)))
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe_machine(), "rows": rows}
    (output / "memory.json").write_text(json.dumps(record, indent=1) + "\n")
    text = (
        "# Memory between forward and backward, and on disk\n\n`python -m benchmarks.graphs.memory`"
        f": MiB an image at 224 x 224; {machine_line()}\n\n{table(rows)}\n\nShare: edgewf's of "
        "PyTorch eager's. Extra work: multiply-adds of a step that low memory adds. Bundle: all "
        "files of the folder, against the network's parameters in float32.\n"
    )
    (output / "memory.md").write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
