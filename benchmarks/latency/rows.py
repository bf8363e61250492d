"""The rows of the table: a step by edgewf's engines and by PyTorch, each in a process of its own.

    python -m benchmarks.latency.rows

answers what `protocol` asks; the order is {"row", "model", "bundle", "images", "threads",
"classes"}. All rows do the same: forward with batch statistics, entropy, gradient of BatchNorm
scales and shifts, SGD with momentum. edgewf's rows take uint8 frames and normalise them inside the
graph; the others are given float32 and so do a little less.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency.protocol import Row, serve

EAGER = "PyTorch eager"
EAGER_CHANNELS_LAST = f"{EAGER}, channels_last"
ORT_TRAINING = "ONNX Runtime Training"
EDGEWF = "edgewf, "  # begins the names of edgewf's rows; an engine follows

# So small that the parameters stay what they are for every repetition.
LEARNING_RATE = 1e-9


@dataclass(frozen=True)
class TorchRow:
    """How a row runs PyTorch."""

    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False


TORCH = {
    EAGER: TorchRow(),
    EAGER_CHANNELS_LAST: TorchRow(channels_last=True),
    f"{EAGER}, channels_last, bf16 autocast": TorchRow(channels_last=True, bfloat16=True),
    "torch.compile": TorchRow(compiled=True),
    "torch.compile, channels_last": TorchRow(compiled=True, channels_last=True),
}


def make(order: dict[str, Any]) -> Row:
    """Build the row that was ordered."""
    name = order["row"]
    if name.startswith(EDGEWF):
        return _edgewf(name.removeprefix(EDGEWF), order)
    return _torch(TORCH[name], order)


def _edgewf(engine_name: str, order: dict[str, Any]) -> Row:
    from edgewf.bundle import Bundle
    from edgewf.engines.host import HostEngine
    from edgewf.engines.select import select_engine
    from edgewf.kernels.reference import Objective, em_objective

    bundle = Bundle.load(order["bundle"])
    engine = select_engine(engine_name, bundle, order["threads"]).engine
    assert isinstance(engine, HostEngine), "GPU engines have a benchmark of their own"
    images = np.load(order["images"])
    burst = bundle.manifest.burst.with_changes(
        batch_size=len(images), window=len(images), learning_rate=LEARNING_RATE
    )
    engine.reset(burst)

    def gradient(path: Path) -> None:
        found = engine.gradient(images, lambda x: em_objective(x, Objective(), None).dlogits)
        np.save(path, found)

    return Row(lambda: engine.step(images), lambda: engine.infer(images), gradient)


def _torch(how: TorchRow, order: dict[str, Any]) -> Row:
    import torch
    from torch import Tensor

    from benchmarks.graphs.networks import build, gradient, normalised, norms
    from edgewf.bundle import Bundle

    torch.set_num_threads(order["threads"])
    bundle = Bundle.load(order["bundle"])
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    module = build(order["model"], order["classes"]).to(memory_format=layout)
    deployed = build(order["model"], order["classes"]).eval().to(memory_format=layout)
    x = normalised(np.load(order["images"]), bundle).contiguous(memory_format=layout)
    parameters = [p for layer in norms(module) for p in (layer.weight, layer.bias)]
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=0.9)

    def entropy(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=how.bfloat16):
            logits = module(x)
        log_p = logits.float().log_softmax(1)
        return -(log_p.exp() * log_p).sum()

    def infer(x: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=how.bfloat16):
            found: Tensor = deployed(x)
            return found

    loss = torch.compile(entropy) if how.compiled else entropy
    forward = torch.compile(infer) if how.compiled else infer

    def step() -> None:
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    def write_gradient(path: Path) -> None:
        np.save(path, torch.cat(torch.autograd.grad(loss(x), parameters)).numpy())

    if order["row"] == EAGER and order.get("truth"):
        # What every row's gradient is compared with.
        exact = build(order["model"], order["classes"]).double()
        np.save(order["truth"], gradient(exact, x.double()))
    return Row(step, lambda: forward(x), write_gradient)


if __name__ == "__main__":
    serve(make)
