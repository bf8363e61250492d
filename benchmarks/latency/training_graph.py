"""ONNX graphs for ONNX Runtime Training: a network with its BatchNorm layers kept apart."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.graphs.networks import build, norms

OPSET = 17  # which ONNX Runtime 1.19 knows


class _Entropy(nn.Module):
    """The sum of the predictions' entropies."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        log_p = self.network(x).log_softmax(1)
        return -(log_p.exp() * log_p).sum()


def write(name: str, classes: int, side: int, training: Path, deployed: Path) -> list[str]:
    """Write x [B, 3, S, S] -> entropy, and x -> logits with what can be folded.

    Returns:
        The names of scales and shifts in the first graph, in the order of the affine vector.
    """
    module = build(name, classes).eval()
    for layer in norms(module):
        layer.eval()  # the graph's nodes are switched to batch statistics later
    for network, path, fold in ((_Entropy(module), training, False), (module, deployed, True)):
        mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE
        with warnings.catch_warnings():
            # The newer exporter decomposes BatchNorm.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                network,
                (torch.zeros(2, 3, side, side),),
                str(path),
                dynamo=False,
                training=mode,
                do_constant_folding=fold,
                opset_version=OPSET,
                input_names=["x"],
                dynamic_axes={"x": {0: "B"}},
            )
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    return [f"network.{layer}.{part}" for layer in layers for part in ("weight", "bias")]
