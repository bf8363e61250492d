"""The same step in PyTorch on the GPU: eager float32, and autocast, compiled into CUDA graphs.

    python -m benchmarks.gpu.torch_step MODEL

prints a JSON object for each row and batch size. A step is uint8 frames to the GPU, forward with
batch statistics, entropy, the gradient of scales and shifts, and momentum SGD.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import click

from benchmarks.gpu.engines import BATCHES, REPEATS
from edgewf.commands.explaining import ExplainingCommand

WARM_UP = 5
SIDE = 224  # of all three models


def step_of(module: Any, mean: Any, std: Any, *, autocast: bool, learning_rate: float) -> Any:
    """Return a function of pinned uint8 [B, S, S, 3] that runs a step and does not wait."""
    import torch

    from benchmarks.graphs.networks import norms

    parameters = [p for layer in norms(module) for p in (layer.weight, layer.bias)]
    optimizer = torch.optim.SGD(parameters, learning_rate, momentum=0.9)

    def entropy(images: Any) -> Any:
        with torch.autocast("cuda", torch.float16, enabled=autocast):
            x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
            log_p = module(x).float().log_softmax(1)
        return -(log_p.exp() * log_p).sum(1).mean()

    loss = torch.compile(entropy, mode="reduce-overhead") if autocast else entropy

    def step(images: Any) -> None:
        if autocast:
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        loss(images.cuda(non_blocking=True)).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[Any], None], images: Any) -> float:
    """Return the median time of a step, frames included."""
    import torch

    for _ in range(WARM_UP):
        step(images)
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(10):
            step(images)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / 10)
    return statistics.median(times)


@click.command(cls=ExplainingCommand)
@click.argument("model")
def main(model: str) -> None:
    """Time MODEL on random frames."""
    try:
        import torch
    except ImportError:
        click.echo(json.dumps({"skipped": "PyTorch is not installed"}))
        return
    if not torch.cuda.is_available():
        click.echo(json.dumps({"skipped": "this PyTorch has no CUDA, or finds no GPU"}))
        return
    try:
        from benchmarks.graphs.networks import build
    except ImportError as error:
        click.echo(json.dumps({"skipped": f"the models cannot be built: {error}"}))
        return
    # TensorFloat-32 has a tenth of float32's digits, and edgewf's fp32 engines do without.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for row, autocast in (("eager fp32", False), ("autocast, compile, CUDA graphs", True)):
        module = build(model).cuda()
        mean, std = (torch.full((3, 1, 1), v, device="cuda") for v in (0.45, 0.225))
        step = step_of(module, mean, std, autocast=autocast, learning_rate=1e-4)
        for batch in reversed(BATCHES):
            torch.cuda.reset_peak_memory_stats()
            images = torch.randint(0, 256, (batch, SIDE, SIDE, 3), dtype=torch.uint8).pin_memory()
            taken = seconds(step, images)
            record = {
                "row": f"PyTorch {torch.__version__} {row}",
                "model": model,
                "batch": batch,
                "step_ms": 1e3 * taken,
                "device_MiB": torch.cuda.max_memory_reserved() / 2**20,
            }
            click.echo(json.dumps(record))


if __name__ == "__main__":
    main()
