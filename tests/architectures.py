"""Measure what a user gets who exports an architecture: gradient error, sizes, TensorRT's verdict.

The weights are random, but none of BatchNorm's parameters is trivial: scales and shifts are drawn,
running statistics are those of mirrored pictures. The bundle comes from the command
line's own path: a checkpoint on disk, `load_source`, `export_bundle`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from edgewf.bundle import GRAPHS, Bundle
from edgewf.engines import Images
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source
from edgewf.export.sources.torchvision_models import import_torchvision
from edgewf.kernels.reference import Objective, em_objective
from tests.truth import autograd, batch_norms, prepare, relative


@dataclass(frozen=True)
class Architecture:
    """A model name of `edgewf export`, and how small it may be measured."""

    name: str
    image_size: int = 96
    batch: int = 4


TORCHVISION = (
    *(Architecture(f"resnet{n}") for n in (18, 34, 50, 101, 152)),
    *(Architecture(f"resnext{n}") for n in ("50_32x4d", "101_32x8d", "101_64x4d")),
    *(Architecture(f"wide_resnet{n}_2") for n in (50, 101)),
    *(Architecture(f"densenet{n}") for n in (121, 161, 169, 201)),
    *(Architecture(f"mobilenet_{n}") for n in ("v2", "v3_small", "v3_large")),
    *(Architecture(f"efficientnet_b{n}") for n in range(8)),
    *(Architecture(f"efficientnet_v2_{n}") for n in "sml"),
    *(Architecture(f"mnasnet{n}") for n in ("0_5", "0_75", "1_0", "1_3")),
    *(Architecture(f"shufflenet_v2_x{n}") for n in ("0_5", "1_0", "1_5", "2_0")),
    *(
        Architecture(f"regnet_{xy}_{n}")
        for xy in "xy"
        for n in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
    ),
    Architecture("googlenet", 128),
    Architecture("inception_v3", 139),
    # Their pooling to 7 x 7 cannot be exported from fewer pixels.
    *(Architecture(f"vgg{n}_bn", 224, 2) for n in (11, 13, 16, 19)),
    # Its attention wants the pixels that it was built for.
    Architecture("maxvit_t", 224, 2),
)

_TIMM = """
    resnet18 resnet18d resnet26t resnet50d resnetblur18 resnetaa50 resnetrs50 tresnet_m
    seresnet18 ecaresnet26t ecaresnetlight seresnext26d_32x4d legacy_seresnet18
    eca_resnext26ts gcresnext26ts skresnet18 resnest14d resnest26d res2net50_26w_4s res2next50
    regnetx_002 regnety_002 regnetz_b16 repvgg_a0 repvgg_b1g4 repghostnet_050 mobileone_s0
    ghostnet_050 ghostnet_100 ghostnetv2_100
    mobilenetv2_100 mobilenetv3_small_100 mobilenetv4_conv_small mobilenetv4_conv_medium
    efficientnet_lite0 efficientnet_lite4 tf_efficientnet_lite0 tf_efficientnetv2_b0
    mixnet_s tf_mixnet_s mnasnet_small spnasnet_100 semnasnet_100 fbnetc_100 hardcorenas_a
    tinynet_a lcnet_050 rexnet_100 hrnet_w18_small hrnet_w18 dla34 dla46_c dla60_res2net
    cspresnet50 cspdarknet53 darknet53 cs3darknet_s cs3sedarknet_l vovnet39a ese_vovnet19b_dw
    selecsls42b densenet121 densenetblur121d dpn68 dpn68b gernet_s hgnetv2_b0
    xception41 legacy_xception inception_v4 inception_resnet_v2 repvit_m0_9 convmixer_768_32
"""
TIMM = tuple(Architecture(f"timm/{name}") for name in _TIMM.split())

# The smallest of each kind, for every change.
_FEW = """
    mobilenet_v3_small efficientnet_b0 mnasnet0_5 shufflenet_v2_x0_5 regnet_y_400mf
    googlenet timm/resnetblur18 timm/ecaresnet26t timm/skresnet18 timm/repvgg_a0
    timm/ghostnet_050 timm/mobilenetv4_conv_small timm/tf_efficientnet_lite0 timm/mixnet_s
    timm/hrnet_w18_small timm/dla46_c
"""
FEW = frozenset(_FEW.split())


@dataclass(frozen=True)
class Measurement:
    """A row of the table.

    Attributes:
        name, image_size, batch: what was measured.
        gradient_error: relative L2 distance of the affine gradient from PyTorch's in float64.
        float32_error: the same of PyTorch's own float32, the larger of two orders of the images.
        logits_error: relative L2 distance of the logits under batch statistics from PyTorch's in
            float64.
        logits_float32_error: the same of PyTorch's own float32, as for the gradient.
        infer_error: relative L2 distance of the deployed logits from PyTorch's in float64.
        infer_float32_error: the same of PyTorch's own float32.
        parameters: P, length of the affine vector.
        layers: BatchNorm layers.
        nodes: ONNX nodes of each graph.
        weights_mb: all graphs' shared weights, 10^6 bytes.
        tensorrt: parser's complaint about the first graph refused, "" where all are taken, None
            where TensorRT for RTX is not installed.
    """

    name: str
    image_size: int
    batch: int
    gradient_error: float
    float32_error: float
    logits_error: float
    logits_float32_error: float
    infer_error: float
    infer_float32_error: float
    parameters: int
    layers: int
    nodes: dict[str, int]
    weights_mb: float
    tensorrt: str | None

    @property
    def limit(self) -> float:
        """What the gradient error may be."""
        return max(1e-3, 2 * self.float32_error)

    @property
    def logits_limit(self) -> float:
        """What the error of the logits under batch statistics may be."""
        return max(1e-3, 2 * self.logits_float32_error)

    @property
    def infer_limit(self) -> float:
        """What the error of the deployed logits may be."""
        return max(1e-3, 2 * self.infer_float32_error)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(architecture: Architecture, frames: list[Images], folder: Path) -> Measurement:
    """Export one architecture to `folder` and compare it with PyTorch.

    Args:
        architecture: what to export.
        frames: uint8 photographs, at least `architecture.batch`.
        folder: for checkpoint and bundle.
    """
    a = architecture
    torch.manual_seed(0)
    module = _build(a.name)
    _randomize_norms(module, _normalised(frames, a.image_size))
    checkpoint = folder / "weights.pth"
    torch.save(module.state_dict(), checkpoint)
    source = load_source(a.name, weights=str(checkpoint), image_size=a.image_size)
    bundle = export_bundle(source, folder / "bundle")
    names = [name for name, _ in bundle.manifest.layers]
    assert set(names) == set(batch_norms(module))
    images, x = prepare(source.preprocessing, frames[: a.batch])
    with torch.no_grad():
        deployed_single = module.eval()(x.float()).numpy()
    # Twice, because where a sum in another order lets a ReLU flip is a matter of luck.
    single, flipped = (autograd(module, part.float(), names) for part in (x, x.flip(0)))
    logits, gradient = autograd(module, x, names)
    with torch.no_grad():
        deployed = module.double().eval()(x).numpy()
    del module
    engine = OnnxRuntimeCPU(bundle, threads=1)
    infer = engine.infer(images)
    found_logits = engine.adapted_logits(images)
    dlogits = em_objective(found_logits, Objective(), None).dlogits
    _, found = engine.affine_gradient(images, dlogits)
    return Measurement(
        name=a.name,
        image_size=a.image_size,
        batch=a.batch,
        gradient_error=relative(found, gradient),
        float32_error=max(relative(x[1], gradient) for x in (single, flipped)),
        logits_error=relative(found_logits, logits),
        logits_float32_error=max(relative(single[0], logits), relative(flipped[0][::-1], logits)),
        infer_error=relative(infer, deployed),
        infer_float32_error=relative(deployed_single, deployed),
        parameters=len(bundle.affine),
        layers=len(names),
        nodes={name.removesuffix(".onnx"): _nodes(bundle.path(name)) for name in GRAPHS},
        weights_mb=round(bundle.path("weights.bin").stat().st_size / 1e6, 1),
        tensorrt=_tensorrt_verdict(bundle),
    )


def versions() -> str:
    """What the measurements hold for."""
    packages = ("torch", "torchvision", "timm", "onnxruntime", "tensorrt-rtx-cu13-bindings")
    installed = {d.name.replace("_", "-").lower(): d.version for d in distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in packages if name in installed)


def _build(name: str) -> nn.Module:
    torchvision = import_torchvision()
    if name.startswith("timm/"):
        import timm

        module: nn.Module = timm.create_model(name.removeprefix("timm/"))
        return module.eval()
    module = torchvision.models.get_model(name, weights=None)
    for head in ("aux1", "aux2", "AuxLogits"):
        if hasattr(module, head):
            setattr(module, head, None)
    return module.eval()


def _normalised(frames: list[Images], size: int) -> Tensor:
    """All photographs, squeezed to squares and mirrored, float32 [N, 3, S, S]."""
    crops = [torch.from_numpy(f[:, ::-1].copy()).permute(2, 0, 1)[None].float() for f in frames]
    small = [nn.functional.interpolate(crop, (size, size), mode="area") for crop in crops]
    return torch.cat(small) / 58 - 2.1


@torch.no_grad()
def _randomize_norms(module: nn.Module, x: Tensor) -> None:
    layers = list(batch_norms(module).values())
    for layer in layers:
        layer.weight.uniform_(0.6, 1.4)
        layer.bias.normal_(0, 0.2)
        layer.train()
        layer.momentum = 1.0
    module(x)
    for layer in layers:
        layer.momentum = 0.0
    module.eval()


def _nodes(path: Path) -> int:
    return len(onnx.load(path, load_external_data=False).graph.node)


def _tensorrt_verdict(bundle: Bundle) -> str | None:
    try:
        import tensorrt_rtx_bindings as trt
    except ImportError:
        return None
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    for name in GRAPHS:
        network = trt.Builder(log).create_network(0)
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(bundle.path(name))):
            return f"{name}: {parser.get_error(0).desc()}"
    return ""
