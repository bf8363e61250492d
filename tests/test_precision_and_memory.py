"""Half-precision and low-memory bundles against the plain one, on pictures the network knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.dropout import DropoutInference
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.engines.openvino_cpu import OpenVINOCPU
from edgewf.export.exporter import export_bundle
from edgewf.export.sources import Source
from edgewf.export.sources.registry import load_source
from edgewf.images import read_image
from edgewf.kernels.reference import Objective, em_objective
from edgewf.settings import BurstSettings
from tests.datasets import require
from tests.tiny import crops, export_tiny

HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
BATCH = 16


@pytest.fixture(scope="module")
def source() -> Source:
    return load_source("efficientnet_lite0")


@pytest.fixture(scope="module")
def plain(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(source, tmp_path_factory.mktemp("plain") / "b")


@pytest.fixture(scope="module")
def half(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(source, tmp_path_factory.mktemp("half") / "b", precision="fp16")


@pytest.fixture(scope="module")
def low(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(source, tmp_path_factory.mktemp("low") / "b", low_memory=True)


@pytest.fixture(scope="module")
def images(plain: Bundle) -> NDArray[np.uint8]:
    files = sorted(require("imagenet-sample").glob("*/*.jpg"))
    chosen = files[:: len(files) // BATCH][:BATCH]
    return np.stack([plain.manifest.preprocessing(read_image(file)) for file in chosen])


def entropy_gradient(engine: OnnxRuntimeCPU | OpenVINOCPU, images: NDArray[np.uint8]) -> NDArray:
    scale = np.float32(engine.bundle.manifest.loss_scale)
    gradient = engine.gradient(
        images, lambda logits: em_objective(logits, Objective(), None).dlogits * scale
    )
    return gradient / scale


def relative(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# Half precision ---------------------------------------------------------------------------------


def test_half_weights_take_half_the_space(plain: Bundle, half: Bundle) -> None:
    full = plain.manifest.files["weights.bin"]["bytes"]
    assert half.manifest.files["weights.bin"]["bytes"] < 0.51 * full
    assert half.manifest.residual_bytes < 0.51 * plain.manifest.residual_bytes


def test_dropout_inferences_of_half_weights_are_those_of_whole_ones(
    plain: Bundle, half: Bundle
) -> None:
    embedding = np.maximum(np.random.default_rng(0).normal(0, 1, (8, 1280)), 0).astype(np.float32)
    whole, found = (DropoutInference(bundle)(embedding, seed=0) for bundle in (plain, half))
    assert found.dtype == np.float32
    assert 0 < relative(found, whole) < 2e-3


def test_types_are_where_they_belong(half: Bundle) -> None:
    """Convolutions in half, sums over the batch in single precision, and so the interface."""
    for name in ("infer", "probe", "forward", "backward"):
        model = onnx.load(half.path(f"{name}.onnx"), load_external_data=False)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        graph = model.graph
        types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info)}
        types |= {v.name: v.type.tensor_type.elem_type for v in graph.output}
        types |= {v.name: v.data_type for v in graph.initializer}
        for node in graph.node:
            if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
                assert {types[x] for x in (*node.input, *node.output)} == {HALF}, node.name
            if node.op_type == "ReduceMean":
                assert types[node.input[0]] == types[node.output[0]] == SINGLE, node.name
        outputs = {v.name: v.type.tensor_type.elem_type for v in graph.output}
        for output in ("logits", "embedding", "batch_mean", "inv_std", "affine_grad"):
            assert outputs.get(output, SINGLE) == SINGLE, (name, output)
        if name == "backward":
            inputs = {v.name: v.type.tensor_type.elem_type for v in graph.input}
            assert inputs["affine"] == SINGLE
            assert inputs["dlogits"] == HALF


def test_half_precision_agrees(plain: Bundle, half: Bundle, images: NDArray[np.uint8]) -> None:
    """Rounding the weights alone moves this gradient by 4.4e-2 in float64."""
    single, mixed = OnnxRuntimeCPU(plain, threads=2), OnnxRuntimeCPU(half, threads=2)
    assert relative(mixed.infer(images), single.infer(images)) < 1e-2
    assert relative(mixed.adapted_logits(images), single.adapted_logits(images)) < 5e-3
    assert relative(entropy_gradient(mixed, images), entropy_gradient(single, images)) < 8e-2


def test_openvino_takes_half_precision(half: Bundle, images: NDArray[np.uint8]) -> None:
    found = entropy_gradient(OpenVINOCPU(half, threads=2), images)
    assert relative(found, entropy_gradient(OnnxRuntimeCPU(half, threads=2), images)) < 8e-2


def test_overflow_skips_the_step(half: Bundle) -> None:
    """A gradient that leaves float16's range moves nothing."""
    engine = OnnxRuntimeCPU(half, threads=2)
    frames = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    gradient = engine.gradient(frames, lambda logits: np.full_like(logits, 1e6))
    assert not np.isfinite(gradient).all()


# Low memory -------------------------------------------------------------------------------------


def test_low_memory_is_the_same_mathematics(
    plain: Bundle, low: Bundle, images: NDArray[np.uint8]
) -> None:
    assert low.manifest.residual_bytes < 0.8 * plain.manifest.residual_bytes
    assert 0 < low.manifest.recomputed < 0.25
    assert plain.manifest.recomputed == 0
    expected = entropy_gradient(OnnxRuntimeCPU(plain, threads=2), images)
    found = entropy_gradient(OnnxRuntimeCPU(low, threads=2), images)
    assert relative(found, expected) < 1e-4


def test_bursts_agree_at_any_precision(tmp_path: Path) -> None:
    """On a small network that knows its pictures a burst flips the same frames."""
    frames, _ = crops(8, seed=3)
    settings = BurstSettings.default(6).with_changes(batch_size=24, window=48, steps=4)
    labels = []
    for options in ({}, {"precision": "fp16"}, {"low_memory": True}):
        folder = tmp_path / str(len(labels))
        folder.mkdir()
        engine = OnnxRuntimeCPU(export_tiny(folder, **options), threads=1)
        engine.reset(settings)
        for start in (0, 24):
            engine.record(frames[start : start + 24])
        for step in range(4):
            engine.step(frames[24 * (step % 2) : 24 * (step % 2) + 24])
        for start in (0, 24):
            engine.probe(frames[start : start + 24])
        labels.append(engine.read().after.label)
    assert (labels[0] == labels[2]).all()
    assert (labels[0] == labels[1]).mean() > 0.95
