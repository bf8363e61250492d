"""ONNX files from PyTorch's exporters, whole and damaged."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgewf.export.exporter import export_bundle
from edgewf.export.sources import imagenet_convention
from edgewf.export.sources.registry import load_source
from tests.refusals import SIZE, logits, refused


def onnx_file(module: nn.Module, path: Path, *, size: int = SIZE, **arguments: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings: dict[str, Any] = {
            "training": torch.onnx.TrainingMode.PRESERVE,
            "do_constant_folding": False,
            "dynamo": False,
            "input_names": ["x"],
            **arguments,
        }
        example = settings.pop("example", (torch.zeros(2, 3, size, size),))
        torch.onnx.export(module, example, path, **settings)
    return path


class Plain(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


class TwoHeads(Plain):
    def forward(self, x: Tensor) -> Any:
        y = self.layers(x)
        return y, 2 * y


class WithBias(Plain):
    def forward(self, x: Tensor, bias: Tensor | None = None) -> Any:
        return self.layers(x) + bias


class Inverted(nn.Module):
    """A bottleneck as of MobileNetV3: depthwise, hard swish, squeeze and excitation, shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1)
        )
        self.project = nn.Sequential(nn.Conv2d(16, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Dropout(0.2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = nn.functional.hardswish(self.expand(x))
        y = y * nn.functional.hardsigmoid(self.squeeze(y))
        x = nn.functional.max_pool2d(x + self.project(y), 2)
        return self.head(x.mean((2, 3)).view(x.shape[0], -1))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_file(Plain().eval(), tmp_path_factory.mktemp("onnx") / "good.onnx")


def no_model(path: Path, *parts: str, **arguments: Any) -> None:
    refused(f"{path}: ", *parts, onnx=str(path), **{"image_size": None, **arguments})


def test_onnx_file(good: Path) -> None:
    source = load_source(onnx=str(good))
    assert (source.name, source.origin, source.labels) == ("good", str(good), None)
    assert source.preprocessing == imagenet_convention(SIZE)
    assert source.fingerprint == load_source(onnx=str(good)).fingerprint


def test_onnx_fingerprint_belongs_to_the_weights(good: Path, tmp_path: Path) -> None:
    model = onnx.load(good)
    copy = tmp_path / "renamed.onnx"
    onnx.save(model, copy)
    assert load_source(onnx=str(copy)).fingerprint == load_source(onnx=str(good)).fingerprint
    weight = next(w for w in model.graph.initializer if len(w.dims) == 4)
    array = onnx.numpy_helper.to_array(weight).copy()
    array.flat[0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, copy)
    assert load_source(onnx=str(copy)).fingerprint != load_source(onnx=str(good)).fingerprint


EXPORTERS: dict[str, dict[str, Any]] = {
    "legacy, opset 11": {"opset_version": 11},
    "legacy, opset 13": {"opset_version": 13},
    "legacy, opset 17": {"opset_version": 17},
    "legacy, weights as inputs": {"opset_version": 13, "keep_initializers_as_inputs": True},
    "dynamo, opset 18": {"opset_version": 18, "dynamo": True, "optimize": False, "verbose": False},
    "dynamo, opset 20": {"opset_version": 20, "dynamo": True, "optimize": False, "verbose": False},
}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exporters_agree_with_the_module(tmp_path: Path, exporter: str) -> None:
    """Traced with a batch of 2, run with one of 3."""
    torch.manual_seed(0)
    module = Inverted().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    path = onnx_file(module, tmp_path / "net.onnx", size=16, **EXPORTERS[exporter])
    source = load_source(onnx=str(path))
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = module(images).numpy()
    np.testing.assert_allclose(logits(source, images.numpy()), expected, rtol=1e-4, atol=1e-4)
    bundle = export_bundle(source, tmp_path / "bundle")
    assert bundle.affine.shape == (2 * (8 + 16 + 8),)


def test_too_old_onnx(tmp_path: Path) -> None:
    path = onnx_file(Plain().eval(), tmp_path / "old.onnx", opset_version=9)
    no_model(path, "ONNX operator set 9, edgewf reads 11 and newer", "re-export")


def test_one_of_several_heads(tmp_path: Path) -> None:
    names = ["main", "aux"]
    path = onnx_file(TwoHeads().eval(), tmp_path / "heads.onnx", output_names=names)
    source = load_source(onnx=str(path), head="main")
    images = np.random.default_rng(0).random((2, 3, SIZE, SIZE), np.float32)
    np.testing.assert_allclose(
        logits(load_source(onnx=str(path), head="aux"), images), 2 * logits(source, images), 1e-5
    )
    assert not any(node.op_type == "Mul" for node in source.graph.graph)
    no_model(path, "no output 'logits'; --head takes one of main [", head="logits")


def test_onnx_with_an_open_image_size(tmp_path: Path) -> None:
    axes = {"x": {0: "n", 2: "height", 3: "width"}}
    path = onnx_file(Plain().eval(), tmp_path / "open.onnx", dynamic_axes=axes)
    no_model(path, "height and width are open", "--image-size S")
    assert load_source(onnx=str(path), image_size=48).preprocessing.image_size == 48


def test_onnx_options_that_contradict_the_file(good: Path) -> None:
    no_model(good, "fixed to 32 pixels, not --image-size 64", image_size=64)
    no_model(good, "4 classes, not --classes 9", "leave the option out", classes=9)


@pytest.mark.parametrize(
    "arguments",
    [
        {"dynamo": True, "optimize": True, "training": torch.onnx.TrainingMode.EVAL},
        {"training": torch.onnx.TrainingMode.EVAL, "do_constant_folding": True},
    ],
    ids=["dynamo", "torch script"],
)
def test_onnx_with_folded_batch_norm(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = onnx_file(Plain().eval(), tmp_path / "folded.onnx", **arguments)
    no_model(
        path,
        "no BatchNormalization layer among",
        "(1 convolutions)",
        "re-export with torch.onnx.export(",
        "training=TrainingMode.PRESERVE, do_constant_folding=False, dynamo=False",
        "dynamo=True, optimize=False",
    )


def test_onnx_in_training_mode(tmp_path: Path) -> None:
    path = onnx_file(Plain().train(), tmp_path / "training.onnx")
    no_model(path, "is in training mode", "model.eval()")


@pytest.mark.parametrize(
    ("module", "arguments", "parts"),
    [
        (TwoHeads(), {}, ["the model has 2 outputs (", "the main one with --head NAME"]),
        (
            WithBias(),
            {"example": (torch.zeros(2, 3, 32, 32), torch.zeros(4)), "input_names": ["x", "bias"]},
            ["the model has 2 inputs (x [2,3,32,32], bias [4])", "one batch of images"],
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)),
            {"example": (torch.zeros(2, 12),)},
            ["input 'x' is FLOAT [2,12], expected float32 [batch, 3, height, width]"],
        ),
        (
            Plain(channels=1),
            {"example": (torch.zeros(2, 1, 32, 32),)},
            ["input 'x' has the shape [2,1,32,32]", "3 RGB channels"],
        ),
        (Plain(), {"example": (torch.zeros(2, 3, 32, 40),)}, ["32 x 40 pixels", "squares"]),
        (Plain().half(), {"example": (torch.zeros(2, 3, 32, 32).half(),)}, ["FLOAT16", "float32"]),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            {},
            ["expected [batch, classes]"],
        ),
    ],
    ids=["outputs", "inputs", "rank", "channels", "square", "half", "no classifier"],
)
def test_onnx_that_is_no_classifier_for_us(
    tmp_path: Path, module: nn.Module, arguments: dict[str, Any], parts: list[str]
) -> None:
    no_model(onnx_file(module.eval(), tmp_path / "net.onnx", **arguments), *parts)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_onnx(good: Path, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "truncated.onnx"
    data = good.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    no_model(path, "not a readable ONNX model", "truncated")


@pytest.mark.parametrize("content", [b"", b"some text\n" * 20])
def test_file_that_is_no_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    no_model(path)


def test_missing_onnx(tmp_path: Path) -> None:
    no_model(tmp_path / "nothing.onnx", "no such file", "--onnx")
    no_model(tmp_path, "no such file")


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda data: data.unlink(), ["external weights are missing", "net.onnx.data"]),
        (lambda data: os.truncate(data, data.stat().st_size // 2), ["not a readable ONNX model"]),
    ],
    ids=["missing", "truncated"],
)
def test_onnx_whose_weights_lie_beside_it(
    good: Path, tmp_path: Path, damage: Callable[[Path], object], parts: list[str]
) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(
        onnx.load(good),
        path,
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
    )
    source = load_source(onnx=str(path))
    assert source.fingerprint == load_source(onnx=str(good)).fingerprint
    # The graph holds them now: the file may go before the bundle is written.
    aside = shutil.copy(tmp_path / "net.onnx.data", tmp_path / "aside")
    (tmp_path / "net.onnx.data").unlink()
    assert export_bundle(source, tmp_path / "bundle").affine.shape == (16,)
    shutil.copy(aside, tmp_path / "net.onnx.data")
    damage(tmp_path / "net.onnx.data")
    no_model(path, *parts)


def test_declared_output_has_a_free_batch(good: Path, tmp_path: Path) -> None:
    """Traced with a batch of 2; a runtime that plans memory must not believe it."""
    bundle = export_bundle(load_source(onnx=str(good)), tmp_path / "bundle")
    for name in ("infer.onnx", "forward.onnx"):
        graph = onnx.load(bundle.path(name), load_external_data=False).graph
        logits = next(v for v in graph.output if v.name == "logits").type.tensor_type.shape
        assert (logits.dim[0].dim_param, logits.dim[1].dim_value) == ("batch", 4)
