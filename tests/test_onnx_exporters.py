"""ONNX files that other frameworks' exporters wrote; tests/data/make_*.py say how."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source
from tests.refusals import logits, refused

DATA = Path(__file__).parent / "data"
ANSWERS = {
    name: np.asarray(rows, np.float32)
    for path in sorted(DATA.glob("*.json"))
    for name, rows in json.loads(path.read_text()).items()
}

# What keras2.onnx wants: it scales its pixels itself.
PIXELS = {"keras2.onnx": 255}


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ANSWERS)
def test_logits_are_those_of_the_framework(name: str) -> None:
    images = np.random.default_rng(0).random((3, 16, 16, 3), np.float32) * PIXELS.get(name, 1)
    first = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
    found = softmax(logits(load_source(onnx=str(DATA / name)), first))
    np.testing.assert_allclose(found, ANSWERS[name], atol=1e-5)


@pytest.mark.parametrize("name", ANSWERS)
def test_layers_come_through(name: str, tmp_path: Path) -> None:
    """No transposition is left of the channels-last graphs, and every BatchNorm layer adapts."""
    source = load_source(onnx=str(DATA / name))
    assert source.preprocessing.image_size == 16
    kinds = Counter(node.op_type for node in source.graph.graph)
    assert kinds["BatchNormalization"] == 3
    assert kinds["Conv"] == 5
    assert not kinds.keys() & {"Transpose", "Identity", "Softmax", "Max", "Min"}
    bundle = export_bundle(source, tmp_path / "bundle")
    assert bundle.affine.shape == (48,)


def test_keras_folds_batch_norm_unless_told() -> None:
    path = DATA / "keras3_folded.onnx"
    refused(
        f"{path}: no BatchNormalization layer",
        "folded into the convolutions",
        "'Keras and TensorFlow' in edgewf's README",
        onnx=str(path),
        image_size=None,
    )


def test_channels_last_graph_that_no_runtime_loads(tmp_path: Path) -> None:
    model = onnx.load(DATA / "keras3.onnx")
    next(n for n in model.graph.node if n.op_type == "Relu").op_type = "Rolu"
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    refused(f"{path}: ONNX Runtime cannot load this channels-last graph", "Rolu", onnx=str(path))
