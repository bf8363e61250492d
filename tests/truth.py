"""What PyTorch's autograd says of a network under batch statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgewf.engines import Images
from edgewf.preprocessing import Preprocessing

Float64 = NDArray[np.float64]


def prepare(preprocessing: Preprocessing, frames: list[Images]) -> tuple[Images, Tensor]:
    """The same pixels as the graphs take them, and normalised in float64 for PyTorch."""
    images = np.stack([preprocessing(frame) for frame in frames])
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (preprocessing.mean, preprocessing.std)
    )
    return images, (torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 - mean) / std


def batch_norms(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers by name, in the order in which the module holds them."""
    kind = nn.modules.batchnorm._BatchNorm
    return {name: m for name, m in module.named_modules() if isinstance(m, kind)}


def autograd(
    module: nn.Module, x: Tensor, names: list[str] | None = None
) -> tuple[Float64, Float64]:
    """Logits under batch statistics, and the affine gradient of the entropy summed over images.

    Everything but BatchNorm stays in evaluation mode: no dropout, no drop-connect. The gradient
    is laid out as the layers named, or as the module holds them.
    """
    module.to(x.dtype).eval()
    known = batch_norms(module)
    layers = [known[name] for name in names or known]
    for layer in known.values():
        layer.train()
        layer.momentum = 0.0
    logits = module(x)
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum()
    gradient = torch.autograd.grad(entropy, [p for m in layers for p in (m.weight, m.bias)])
    module.eval()
    return logits.detach().double().numpy(), torch.cat(gradient).double().numpy()


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
