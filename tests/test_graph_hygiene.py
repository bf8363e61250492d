"""No node of an exported graph does nothing, or what another does already."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from edgewf.bundle import GRAPHS
from edgewf.export.exporter import export_bundle
from edgewf.export.sources import Source
from edgewf.export.sources.registry import load_source

DATA = Path(__file__).parent / "data"
MODELS = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5")
FILES = ("keras2.onnx", "keras3.onnx", "paddle.onnx")

# Read something and pass it on as it is.
IDLE = frozenset(["Identity", "Dropout", "Constant"])

# Mirror or transpose a kernel.
TURNING = frozenset(["Slice", "Transpose"])
SHARED = 32  # elements; smaller constants have no file to share


def source(name: str) -> Source:
    if name in FILES:
        return load_source(onnx=str(DATA / name))
    torch.manual_seed(0)
    return load_source(name, weights="none", classes=10, image_size=64)


@pytest.fixture(scope="module", params=[*MODELS, *FILES])
def graphs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, onnx.GraphProto]:
    bundle = export_bundle(source(request.param), tmp_path_factory.mktemp("bundles") / "bundle")
    return {name: onnx.load(bundle.path(name)).graph for name in GRAPHS}


def consumed(graph: onnx.GraphProto) -> Counter[str]:
    names = Counter(x for node in graph.node for x in node.input if x)
    names.update(v.name for v in graph.output)
    return names


def test_no_idle_node(graphs: dict[str, onnx.GraphProto]) -> None:
    for name, graph in graphs.items():
        assert not IDLE & {node.op_type for node in graph.node}, name


def test_no_node_computes_a_constant(graphs: dict[str, onnx.GraphProto]) -> None:
    """But for weights that backward turns around: runtimes do so once, and a bundle stores one."""
    for name, graph in graphs.items():
        sizes = {x.name: math.prod(x.dims) for x in graph.initializer}
        for node in graph.node:
            inputs = [x for x in node.input if x]
            turned = name == "backward.onnx" and node.op_type in TURNING
            if turned and sizes.get(inputs[0], 0) >= SHARED:
                continue
            assert not set(inputs) <= sizes.keys(), (name, node.op_type, node.name)


def test_no_expression_twice(graphs: dict[str, onnx.GraphProto]) -> None:
    for name, graph in graphs.items():
        seen = Counter(
            (node.op_type, *node.input, *sorted(a.SerializeToString() for a in node.attribute))
            for node in graph.node
        )
        assert [key for key, count in seen.items() if count > 1] == [], name


def test_nothing_unread(graphs: dict[str, onnx.GraphProto]) -> None:
    for name, graph in graphs.items():
        read = consumed(graph)
        unread = [x.name for x in graph.initializer if not read[x.name]]
        unread += [n.name for n in graph.node if not any(read[y] for y in n.output)]
        assert unread == [], name


def test_no_transposition_undone(graphs: dict[str, onnx.GraphProto]) -> None:
    for name, graph in graphs.items():
        makers = {y: node for node in graph.node for y in node.output}
        for node in graph.node:
            maker = makers.get(node.input[0]) if node.input else None
            if maker is not None and node.op_type == maker.op_type == "Transpose":
                raise AssertionError(f"{name}: {maker.name} and {node.name}")


def test_backward_computes_for_the_gradient_alone(graphs: dict[str, onnx.GraphProto]) -> None:
    """Every node lies on a way to `affine_grad`, and every residual is read."""
    graph = graphs["backward.onnx"]
    needed = {"affine_grad"}
    for node in reversed(graph.node):  # topologically sorted
        assert needed & set(node.output), node.name
        needed |= set(node.input)
    # Those two come whether the graph needs them or not.
    unread = {v.name for v in graph.input} - needed - {"affine", "source_weight"}
    assert unread == set()


def test_forward_writes_what_backward_reads(graphs: dict[str, onnx.GraphProto]) -> None:
    written = {v.name for v in graphs["forward.onnx"].output}
    read = {v.name for v in graphs["backward.onnx"].input}
    assert written - read == {"logits", "embedding"}
    assert read - written <= {"dlogits", "affine", "source_weight"}
