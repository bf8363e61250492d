"""Every gradient rule against PyTorch autograd in float64, through the graphs that users get.

A small classifier is written node by node: convolution and BatchNorm make the activations, the
operator under test follows, then a linear layer. It is exported as a bundle, ONNX Runtime runs
forward and backward, and the gradient of the BatchNorm scales and shifts must be the one that
autograd finds for the same mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.export.builder import OPSET
from edgewf.export.canonical import canonicalize
from edgewf.export.exporter import export_bundle
from edgewf.export.gradients import RULES
from edgewf.export.sources import Source
from edgewf.preprocessing import Preprocessing
from edgewf.settings import BurstSettings

BATCH, CLASSES = 3, 5
TOLERANCE = 2e-5

Operator = Callable[..., str]
Mathematics = Callable[..., Tensor]
Test = Callable[..., None]

COVERED: set[tuple[str, int]] = set()


def covers(*entries: tuple[str, int]) -> Callable[[Test], Test]:
    """Say which entries (operator, input) of the table a test exercises."""
    COVERED.update(entries)
    return lambda test: test


def few(examples: int) -> Callable[[Test], Test]:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


class Net:
    """ONNX nodes as calls: `net.Relu(x)` appends a node and returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def __getattr__(self, op_type: str) -> Operator:
        return partial(self.append, op_type)

    def append(self, op_type: str, *inputs: str | NDArray[Any] | None, **attributes: Any) -> str:
        names = [x if isinstance(x, str) else "" if x is None else self.weight(x) for x in inputs]
        output = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, names, [output], name=f"node {output}", **attributes)
        )
        return output

    def weight(self, array: NDArray[Any], name: str = "") -> str:
        name = name or f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def model(
        self, output: str, size: int, opset: int = OPSET, batch: int | None = None
    ) -> ir.Model:
        n = batch or "n"
        images = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [n, 3, size, size])
        logits = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [n, CLASSES])
        graph = helper.make_graph(self.nodes, "net", [images], [logits], self.weights)
        return ir.from_proto(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        )


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _split(net: Net, x: str, axis: int, **sizes: Any) -> list[str]:
    """`sizes`: num_outputs, or split with the sizes."""
    split = sizes.pop("split", None)
    inputs = [x] if split is None else [x, net.weight(ints(*split))]
    pieces = [
        f"Split_{len(net.nodes)}_{i}" for i in range(len(split or range(sizes["num_outputs"])))
    ]
    net.nodes.append(helper.make_node("Split", inputs, pieces, axis=axis, **sizes))
    return pieces


def _layer_mean(net: Net, x: str) -> str:
    outputs = ["normalised", "layer mean"]
    scale = net.weight(np.ones(5, np.float32))
    net.nodes.append(helper.make_node("LayerNormalization", [x, scale], outputs))
    return outputs[1]


def _square(net: Net, x: str) -> str:
    return net.Mul(x, x)


def scalar(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


class Norm:
    """The parameters of a BatchNorm layer, and its mathematics with mixed statistics."""

    def __init__(self, rng: np.random.Generator, channels: int) -> None:
        self.scale, self.shift, self.mean = rng.normal(size=(3, channels)).astype(np.float32)
        self.var = rng.uniform(0.5, 2, channels).astype(np.float32)
        self.trained = [torch.from_numpy(x).double().requires_grad_() for x in self.parts[:2]]

    @property
    def parts(self) -> list[NDArray[np.float32]]:
        return [self.scale, self.shift, self.mean, self.var]

    def __call__(self, x: Tensor, source_weight: float) -> Tensor:
        scale, shift = self.trained
        if source_weight == 0:
            return F.batch_norm(x, None, None, scale, shift, training=True)
        axes = [a for a in range(x.dim()) if a != 1]
        column = (1, -1, *(1,) * (x.dim() - 2))
        mean, var = (torch.from_numpy(p).double().view(column) for p in (self.mean, self.var))
        mean = (1 - source_weight) * x.mean(axes, keepdim=True) + source_weight * mean
        batch_var = x.var(axes, correction=0, keepdim=True)
        var = (1 - source_weight) * batch_var + source_weight * var
        return (x - mean) / (var + 1e-5).sqrt() * scale.view(column) + shift.view(column)


class Classifier:
    """Branches of convolution and BatchNorm, whatever a test adds, then a linear layer."""

    def __init__(self, channels: tuple[int, ...], size: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.size = size
        self.images = self.rng.integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
        # A kernel of 3 x 2 makes height and width differ.
        self.kernels = [self.normal(c, 3, 3, 2) for c in channels]
        self.norms = [Norm(self.rng, c) for c in channels]

    def normal(self, *shape: int) -> NDArray[np.float32]:
        return self.rng.normal(size=shape).astype(np.float32)

    def norm(self, channels: int) -> Norm:
        self.norms.append(Norm(self.rng, channels))
        return self.norms[-1]

    def branches(self, net: Net) -> list[str]:
        stems = [net.Conv("x", kernel) for kernel in self.kernels]
        norms = self.norms[: len(self.kernels)]
        return [net.BatchNormalization(x, *n.parts) for x, n in zip(stems, norms, strict=True)]

    def export(
        self,
        folder: Path,
        operator: Operator,
        features: int,
        change: Callable[[ir.Graph], None] | None = None,
        opset: int = OPSET,
        traced: int | None = None,
    ) -> OnnxRuntimeCPU:
        net = Net()
        y = operator(net, *self.branches(net))
        weight = np.random.default_rng(1).normal(size=(features, CLASSES)).astype(np.float32)
        bias = np.zeros(CLASSES, np.float32)  # not optional before operator set 11
        logits = net.Gemm(net.Flatten(y), weight, bias)
        graph = canonicalize(net.model(logits, self.size, opset, traced), "net")
        if change is not None:
            change(graph.graph)
        source = Source("net", "", graph, Preprocessing(self.size, self.size), None, "")
        return OnnxRuntimeCPU(export_bundle(source, folder, overwrite=True), threads=1)

    def reference(
        self, mathematics: Mathematics, dlogits: NDArray[np.float32], source_weight: float
    ) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        frames = Preprocessing(self.size, self.size)
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (frames.mean, frames.std))
        x = (torch.from_numpy(self.images).double() / 255 - mean) / std
        x = x.permute(0, 3, 1, 2)
        stems = [F.conv2d(x, torch.from_numpy(kernel).double()) for kernel in self.kernels]
        branches = [n(s, source_weight) for n, s in zip(self.norms, stems, strict=False)]
        features = mathematics(*branches).flatten(1)
        weight = np.random.default_rng(1).normal(size=(features.shape[1], CLASSES))
        logits = features @ torch.from_numpy(weight.astype(np.float32)).double()
        loss = (logits * torch.from_numpy(dlogits)).sum()
        trained = [p for norm in self.norms for p in norm.trained]
        gradient = torch.cat(torch.autograd.grad(loss, trained))
        return features.shape[1], logits.detach().numpy(), gradient.numpy()

    def check(
        self,
        folder: Path,
        operator: Operator,
        mathematics: Mathematics,
        source_samples: float = 0.0,
        change: Callable[[ir.Graph], None] | None = None,
        opset: int = OPSET,
        traced: int | None = None,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Compare logits and gradient.

        `change` edits the canonical graph; `traced` is the batch size the model was fixed to.
        """
        dlogits = self.normal(BATCH, CLASSES)
        burst = BurstSettings.default(CLASSES).with_changes(
            batch_size=BATCH, window=BATCH, source_samples=source_samples
        )
        features, logits, gradient = self.reference(mathematics, dlogits, burst.source_weight)
        engine = self.export(folder, operator, features, change, opset, traced)
        engine.reset(burst)
        found_logits, found = engine.affine_gradient(self.images, dlogits)
        assert np.linalg.norm(gradient) > 0
        assert relative(found_logits, logits) < tolerance
        assert relative(found, gradient) < tolerance


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gradients") / "bundle"


# Elementwise ------------------------------------------------------------------------------------

# ruff: noqa: E501 (tables of one case a line)
ELEMENTWISE: list[tuple[str, str, Operator, Mathematics]] = [
    ("Neg", "", lambda net, x: net.Neg(x), torch.neg),
    ("Relu", "", lambda net, x: net.Relu(x), torch.relu),
    ("LeakyRelu", "", lambda net, x: net.LeakyRelu(x), lambda x: F.leaky_relu(x, 0.01)),
    ("LeakyRelu", "alpha", lambda net, x: net.LeakyRelu(x, alpha=0.3), lambda x: F.leaky_relu(x, 0.3)),
    ("Clip", "relu6", lambda net, x: net.Clip(net.Mul(x, scalar(5)), scalar(0), scalar(6)), lambda x: F.relu6(5 * x)),
    ("Clip", "both", lambda net, x: net.Clip(x, scalar(-0.7), scalar(1.2)), lambda x: F.hardtanh(x, -0.7, 1.2)),
    ("Clip", "low", lambda net, x: net.Clip(x, scalar(-0.3)), lambda x: x.clamp(min=-0.3)),
    ("Clip", "high", lambda net, x: net.Clip(x, None, scalar(0.4)), lambda x: x.clamp(max=0.4)),
    ("Clip", "none", lambda net, x: net.Clip(net.Tanh(x)), torch.tanh),
    ("Sigmoid", "", lambda net, x: net.Sigmoid(x), torch.sigmoid),
    ("HardSigmoid", "default", lambda net, x: net.HardSigmoid(net.Mul(x, scalar(3))), lambda x: (0.6 * x + 0.5).clamp(0, 1)),
    ("HardSigmoid", "torch", lambda net, x: net.HardSigmoid(net.Mul(x, scalar(4)), alpha=1 / 6, beta=0.5), lambda x: F.hardsigmoid(4 * x)),
    ("HardSwish", "", lambda net, x: net.HardSwish(net.Mul(x, scalar(3))), lambda x: F.hardswish(3 * x)),
    ("Tanh", "", lambda net, x: net.Tanh(x), torch.tanh),
    ("Exp", "", lambda net, x: net.Exp(x), torch.exp),
    ("Erf", "", lambda net, x: net.Erf(x), torch.erf),
    ("Sqrt", "", lambda net, x: net.Sqrt(net.Exp(x)), lambda x: x.exp().sqrt()),
    ("Pow", "square", lambda net, x: net.Pow(x, scalar(2)), torch.square),
    ("Pow", "root", lambda net, x: net.Pow(net.Exp(x), scalar(0.3)), lambda x: x.exp() ** 0.3),
    ("Pow", "cube", lambda net, x: net.Pow(x, scalar(3)), lambda x: x**3),
    ("Softplus", "", lambda net, x: net.Softplus(x), F.softplus),
    ("Mul", "silu", lambda net, x: net.Mul(x, net.Sigmoid(x)), F.silu),
    ("Add", "mish", lambda net, x: net.Mul(x, net.Tanh(net.Softplus(x))), F.mish),
    ("Sub", "itself", lambda net, x: net.Mul(net.Sub(scalar(1), x), x), lambda x: (1 - x) * x),
]  # fmt: skip


@covers(*((entry[0], 0) for entry in ELEMENTWISE))
@pytest.mark.parametrize(
    ("operator", "mathematics"),
    [pytest.param(op, maths, id=f"{name} {form}".strip()) for name, form, op, maths in ELEMENTWISE],
)
def test_elementwise(folder: Path, operator: Operator, mathematics: Mathematics) -> None:
    Classifier((4,), 8).check(folder, operator, mathematics)


@covers(("Identity", 0), ("Dropout", 0))
@pytest.mark.parametrize("op_type", ["Identity", "Dropout"])
def test_node_that_does_nothing(folder: Path, op_type: str) -> None:
    """The canonical form has none of them; the rules hold all the same."""

    def insert(graph: ir.Graph) -> None:
        norm = next(node for node in graph if node.op_type == "BatchNormalization")
        y = norm.outputs[0]
        node = ir.node(op_type, [y], name="nothing")
        node.outputs[0].shape, node.outputs[0].type = y.shape, y.type
        y.replace_all_uses_with(node.outputs[0])
        node.replace_input_with(0, y)
        graph.insert_after(norm, node)

    Classifier((4,), 6).check(folder, lambda net, x: net.Relu(x), torch.relu, change=insert)


@pytest.mark.parametrize(
    "operator",
    [
        lambda net, x: net.Identity(net.Identity(x)),
        lambda net, x: net.Dropout(x),
        lambda net, x: net.Dropout(x, scalar(0.5), np.array(False)),
    ],
    ids=["identity", "dropout", "dropout that is off"],
)
def test_canonical_form_drops_what_does_nothing(operator: Operator) -> None:
    classifier, net = Classifier((4,), 6), Net()
    y = operator(net, *classifier.branches(net))
    logits = net.Gemm(net.Flatten(y), classifier.normal(80, CLASSES))
    graph = canonicalize(net.model(logits, 6), "net").graph
    kinds = [node.op_type for node in graph]
    assert kinds == ["Conv", "BatchNormalization", "Flatten", "Gemm"]


def test_dropout_in_training_mode_is_refused(folder: Path) -> None:
    with pytest.raises(EdgewfError, match="net: Dropout 'node Dropout_2' is in training mode"):
        Classifier((4,), 6).export(
            folder, lambda net, x: net.Dropout(x, scalar(0.5), np.array(True)), 80
        )


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_clip_and_reductions_of_older_operator_sets(folder: Path, opset: int) -> None:
    """Bounds and axes were attributes once."""

    def operator(net: Net, x: str) -> str:
        y = net.Clip(x, min=-0.5, max=0.5) if opset < 11 else net.Clip(x, scalar(-0.5), scalar(0.5))
        return net.ReduceMean(y, axes=[2, 3], keepdims=0)

    Classifier((4,), 8).check(
        folder, operator, lambda x: F.hardtanh(x, -0.5, 0.5).mean((2, 3)), opset=opset
    )


# Broadcasting arithmetic ------------------------------------------------------------------------

ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
}


@covers(*((op, i) for op in ARITHMETIC for i in (0, 1)))
@few(24)
@given(
    op=st.sampled_from(sorted(ARITHMETIC)),
    keep=st.sampled_from([(), (1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3)]),
    small_first=st.booleans(),
    one_channel=st.booleans(),
)
def test_arithmetic_of_two_activations(
    folder: Path, op: str, keep: tuple[int, ...], small_first: bool, one_channel: bool
) -> None:
    """One operand keeps size 1 along some axes and is broadcast over them, or both are whole."""
    channels = (4, 1 if one_channel else 4)

    def operator(net: Net, a: str, b: str) -> str:
        b = net.Exp(net.ReduceMean(b, ints(*keep), keepdims=1) if keep else b)
        a = net.Exp(a)
        return net.append(op, b, a) if small_first else net.append(op, a, b)

    def mathematics(a: Tensor, b: Tensor) -> Tensor:
        b = (b.mean(keep, keepdim=True) if keep else b).exp()
        return ARITHMETIC[op](b, a.exp()) if small_first else ARITHMETIC[op](a.exp(), b)

    Classifier(channels, 6).check(folder, operator, mathematics)


@few(16)
@given(
    op=st.sampled_from(sorted(ARITHMETIC)),
    shape=st.sampled_from([(), (1,), (5,), (4, 1, 1), (4, 4, 5), (1, 4, 1, 1), (1, 1, 4, 5)]),
    constant_first=st.booleans(),
)
def test_arithmetic_with_a_constant(
    folder: Path, op: str, shape: tuple[int, ...], constant_first: bool
) -> None:
    constant = np.random.default_rng(2).uniform(0.5, 2, shape).astype(np.float32)
    weight = torch.from_numpy(constant).double()

    def operator(net: Net, x: str) -> str:
        x = net.Exp(x)
        return net.append(op, *((constant, x) if constant_first else (x, constant)))

    def mathematics(x: Tensor) -> Tensor:
        return ARITHMETIC[op](*((weight, x.exp()) if constant_first else (x.exp(), weight)))

    Classifier((4,), 6).check(folder, operator, mathematics)


def test_activation_that_a_constant_broadcasts_in_rank(folder: Path) -> None:
    """[B, 4] + [3, 1, 4] cannot keep the batch first; [B, 4] * [1, 4] does."""
    constant = np.random.default_rng(2).uniform(0.5, 2, (1, 4)).astype(np.float32)
    Classifier((4,), 6).check(
        folder,
        lambda net, x: net.Mul(net.ReduceMean(net.Relu(x), ints(2, 3), keepdims=0), constant),
        lambda x: x.relu().mean((2, 3)) * torch.from_numpy(constant).double(),
    )


def test_squeeze_and_excitation(folder: Path) -> None:
    """A gate computed from the activation that it multiplies: two paths into one value."""
    rng = np.random.default_rng(3)
    down, up = rng.normal(size=(2, 6, 1, 1)), rng.normal(size=(6, 2, 1, 1))
    down, up = down.astype(np.float32), up.astype(np.float32)

    def operator(net: Net, x: str) -> str:
        gate = net.Relu(net.Conv(net.GlobalAveragePool(x), down))
        return net.Mul(x, net.Sigmoid(net.Conv(gate, up)))

    def mathematics(x: Tensor) -> Tensor:
        gate = F.conv2d(x.mean((2, 3), keepdim=True), torch.from_numpy(down).double()).relu()
        return x * F.conv2d(gate, torch.from_numpy(up).double()).sigmoid()

    Classifier((6,), 7).check(folder, operator, mathematics)


# Shape ------------------------------------------------------------------------------------------


@covers(("Reshape", 0), ("Transpose", 0))
@few(8)
@given(groups=st.sampled_from([1, 2, 3, 6]), perm=st.permutations([1, 2, 3, 4]))
def test_reshape_and_transpose(folder: Path, groups: int, perm: list[int]) -> None:
    """The channel shuffle of ShuffleNet, and every other order of its five axes."""
    size, channels = 6, 6
    split = (groups, channels // groups, size - 2, size - 1)

    def operator(net: Net, x: str) -> str:
        y = net.Transpose(net.Reshape(x, ints(-1, *split)), perm=[0, *perm])
        return net.Reshape(net.Tanh(y), ints(0, channels, -1))

    Classifier((channels,), size).check(
        folder, operator, lambda x: x.reshape(-1, *split).permute(0, *perm).tanh()
    )


@pytest.mark.parametrize(
    "batch",
    [
        lambda net, x: net.Shape(x, start=0, end=1),
        lambda net, x: net.Unsqueeze(net.Gather(net.Shape("x"), np.array(0)), ints(0)),
        lambda net, x: net.Slice(net.Shape(x), ints(0), ints(1)),
    ],
    ids=["shape", "gather", "slice"],
)
@pytest.mark.parametrize("rest", [(-1,), (4, -1), (0, -1), (0, 4, 5), (2, -1, 5)], ids=str)
def test_view_that_reads_the_batch_size(
    folder: Path, batch: Operator, rest: tuple[int, ...]
) -> None:
    """x.view(x.shape[0], ...)"""
    pieces = [ints(size) for size in rest]
    Classifier((4,), 6).check(
        folder,
        lambda net, x: net.Tanh(net.Reshape(x, net.Concat(batch(net, x), *pieces, axis=0))),
        torch.tanh,
    )


def test_view_of_twice_the_batch_size_is_not_taken_for_it(folder: Path) -> None:
    def operator(net: Net, x: str) -> str:
        twice = net.Mul(net.Shape(x, start=0, end=1), ints(2))
        halves = net.Reshape(x, net.Concat(twice, ints(2), ints(-1), axis=0))
        return net.Reshape(net.GlobalAveragePool(halves), ints(-1, 4))

    with pytest.raises(EdgewfError, match="only the batch may be symbolic"):
        Classifier((4,), 6).export(folder, operator, 4)


@pytest.mark.parametrize("traced", [1, 8])
@pytest.mark.parametrize("rest", [(-1,), (80,), (0, -1)], ids=str)
def test_view_traced_with_a_fixed_batch(folder: Path, traced: int, rest: tuple[int, ...]) -> None:
    Classifier((4,), 6).check(
        folder,
        lambda net, x: net.Tanh(net.Reshape(x, ints(traced, *rest))),
        torch.tanh,
        traced=traced,
    )


def test_graph_that_needs_its_batch_is_refused(folder: Path) -> None:
    """Twice the images, half the pixels: nothing can be put in the place of the 16."""
    with pytest.raises(EdgewfError, match="fixed to batches of 16"):
        Classifier((4,), 6).export(
            folder, lambda net, x: net.Reshape(x, ints(16, -1)), 40, traced=8
        )


@covers(("Flatten", 0), ("Squeeze", 0), ("Unsqueeze", 0))
@pytest.mark.parametrize(
    "operator",
    [
        lambda net, x: net.Flatten(x),
        lambda net, x: net.Flatten(x, axis=-3),
        lambda net, x: net.Squeeze(net.Unsqueeze(x, ints(2)), ints(-3)),
        lambda net, x: net.Squeeze(net.Unsqueeze(x, ints(-1, 1)), ints(1, 5)),
        lambda net, x: net.Neg(net.Unsqueeze(net.Neg(x), ints(3))),
    ],
    ids=["flatten", "negative axis", "squeeze one", "squeeze two", "unsqueeze"],
)
def test_views(folder: Path, operator: Operator) -> None:
    Classifier((4,), 6).check(folder, lambda net, x: operator(net, net.Tanh(x)), lambda x: x.tanh())


@covers(("Concat", 0), ("Concat", 1), ("Concat", 2))
@pytest.mark.parametrize("axis", [1, 2, 3, -1, -3])
def test_concat(folder: Path, axis: int) -> None:
    """Three pieces, one of them twice."""
    Classifier((4, 4), 6).check(
        folder,
        lambda net, a, b: net.Tanh(net.Concat(a, b, net.Relu(a), a, axis=axis)),
        lambda a, b: torch.cat([a, b, a.relu(), a], axis).tanh(),
    )


@covers(("Split", 0))
@few(16)
@given(
    axis=st.sampled_from([1, 2, 3, -1, -3]),
    even=st.booleans(),
    read=st.sets(st.integers(0, 2), min_size=1),
)
def test_split(folder: Path, axis: int, even: bool, read: set[int]) -> None:
    """Res2Net's pieces; those that nothing reads have no gradient."""
    sizes = [2, 2, 2] if even else [1, 3, 2]
    how = {"num_outputs": 3} if even else {"split": sizes}

    def operator(net: Net, x: str) -> str:
        pieces = _split(net, net.Transpose(net.Tanh(x), perm=[0, 1, 2, 3]), axis, **how)
        return net.Concat(*(net.Tanh(pieces[i]) for i in sorted(read)), axis=axis)

    def mathematics(x: Tensor) -> Tensor:
        pieces = x.tanh().split(sizes, axis)
        return torch.cat([pieces[i].tanh() for i in sorted(read)], axis)

    classifier = Classifier((6,), 8)
    classifier.kernels = [classifier.normal(6, 3, 3, 3)]
    classifier.check(folder, operator, mathematics)


@covers(("Expand", 0))
@few(12)
@given(
    axes=st.sampled_from([(2, 3), (1,), (3,), (1, 2, 3)]),
    computed=st.booleans(),
    alone=st.booleans(),
)
def test_expand(folder: Path, axes: tuple[int, ...], computed: bool, alone: bool) -> None:
    """ECA's `x * y.expand_as(x)`, where it can go, and one that has to stay."""
    size = (4, 4, 5)

    def operator(net: Net, x: str) -> str:
        small = net.ReduceMean(net.Tanh(x), ints(*axes), keepdims=1)
        shape: Any = net.Shape(x) if computed else ints(1, *size)
        large = net.Expand(small, shape)
        return net.Tanh(large) if alone else net.Mul(large, x)

    def mathematics(x: Tensor) -> Tensor:
        large = x.tanh().mean(axes, keepdim=True).expand(-1, *size)
        return large.tanh() if alone else large * x

    Classifier((4,), 6).check(folder, operator, mathematics)


def test_expand_before_arithmetic_is_bypassed() -> None:
    classifier, net = Classifier((4,), 6), Net()
    (x,) = classifier.branches(net)
    y = net.Mul(x, net.Expand(net.GlobalAveragePool(x), net.Shape(x)))
    logits = net.Gemm(net.Flatten(y), classifier.normal(80, CLASSES))
    graph = canonicalize(net.model(logits, 6), "net").graph
    assert not {"Expand", "Shape"} & {node.op_type for node in graph}


def test_images_written_anew(folder: Path) -> None:
    """GhostNet's `y += x` on a view of all channels, as PyTorch exports it."""

    def operator(net: Net, x: str) -> str:
        y = net.Concat(net.Tanh(x), net.Relu(x), axis=1)
        count = net.Gather(net.Shape(y), np.array(0), axis=0)
        rows = net.Unsqueeze(net.Range(np.array(0), count, np.array(1)), ints(-1))
        return net.Tanh(net.ScatterND(y, rows, net.Add(y, y)))

    Classifier((3,), 6).check(
        folder, operator, lambda x: (2 * torch.cat([x.tanh(), x.relu()], 1)).tanh()
    )


@covers(("DepthToSpace", 0))
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(folder: Path, mode: str) -> None:
    def mathematics(x: Tensor) -> Tensor:
        if mode == "DCR":  # PyTorch shuffles pixels as CRD does
            x = x.reshape(-1, 4, 3, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return F.pixel_shuffle(x, 2).tanh()

    Classifier((12,), 6).check(
        folder, lambda net, x: net.Tanh(net.DepthToSpace(x, blocksize=2, mode=mode)), mathematics
    )


@few(12)
@given(channels=st.tuples(*[st.integers(1, 4)] * 3), flat=st.booleans())
def test_concat_of_unequal_pieces(folder: Path, channels: tuple[int, int, int], flat: bool) -> None:
    def operator(net: Net, *pieces: str) -> str:
        if flat:
            pieces = tuple(net.Flatten(p) for p in pieces)
        return net.Tanh(net.Concat(*pieces, axis=1))

    Classifier(channels, 5).check(folder, operator, lambda *pieces: torch.cat(pieces, 1).tanh())


@covers(("Pad", 0))
@few(12)
@given(
    pads=st.lists(st.integers(-2, 3), min_size=6, max_size=6),
    axes=st.sampled_from([None, (2, 3), (-1,), (1,), (3, 1), (1, 2, 3)]),
    value=st.sampled_from([None, 0.0, 1.5]),
)
def test_pad(
    folder: Path, pads: list[int], axes: tuple[int, ...] | None, value: float | None
) -> None:
    """Negative pads crop."""
    named = (0, 1, 2, 3) if axes is None else tuple(a % 4 for a in axes)
    before = {a: pads[a - 1] if a else 0 for a in named}
    after = {a: pads[a + 2] if a else 0 for a in named}
    inputs: list[Any] = [ints(*(before[a] for a in named), *(after[a] for a in named))]
    inputs.append(None if value is None else scalar(value))
    if axes is not None:
        inputs.append(ints(*axes))
    torch_pads = [p for a in (3, 2, 1) for p in (before.get(a, 0), after.get(a, 0))]
    Classifier((5,), 7).check(
        folder,
        lambda net, x: net.Tanh(net.Pad(net.Tanh(x), *inputs)),
        lambda x: F.pad(x.tanh(), torch_pads, value=value or 0.0).tanh(),
    )


@few(16)
@given(
    mode=st.sampled_from(["reflect", "edge"]),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    named=st.booleans(),
)
def test_pad_with_pixels_of_the_image(
    folder: Path, mode: str, pads: list[int], named: bool
) -> None:
    top, left, bottom, right = pads
    modes = {"reflect": "reflect", "edge": "replicate"}
    if named:
        inputs: list[Any] = [ints(left, top, right, bottom), None, ints(-1, 2)]
    else:
        inputs = [ints(0, 0, top, left, 0, 0, bottom, right)]
    Classifier((3,), 7).check(
        folder,
        lambda net, x: net.Tanh(net.Pad(net.Tanh(x), *inputs, mode=mode)),
        lambda x: F.pad(x.tanh(), (left, right, top, bottom), mode=modes[mode]).tanh(),
    )


RESIZES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("nearest", {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}, {}),
    ("linear", {"coordinate_transformation_mode": "half_pixel"}, {"mode": "bilinear", "align_corners": False}),
    ("linear", {"coordinate_transformation_mode": "align_corners"}, {"mode": "bilinear", "align_corners": True}),
    ("cubic", {"coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75}, {"mode": "bicubic", "align_corners": False}),
]  # fmt: skip


@covers(("Resize", 0))
@few(24)
@given(
    case=st.sampled_from(RESIZES),
    size=st.tuples(st.integers(2, 13), st.integers(2, 13)) | st.sampled_from([(8, 10), (12, 5)]),
    form=st.sampled_from(["scales", "sizes", "computed"]),
)
def test_resize(
    folder: Path,
    case: tuple[str, dict[str, Any], dict[str, Any]],
    size: tuple[int, int],
    form: str,
) -> None:
    """HRNet enlarges by whole factors; others by any, and to a size read from another value."""
    mode, attributes, keywords = case
    scales = np.array([1, 1, size[0] / 4, size[1] / 5], np.float32)
    products = np.floor(np.array([4.0, 5.0]) * scales[2:])
    assume(form != "scales" or tuple(products) == size)

    def operator(net: Net, x: str) -> str:
        x = net.Tanh(x)
        if form == "scales":
            return net.Tanh(net.Resize(x, None, scales, mode=mode, **attributes))
        if form == "sizes":
            sizes = net.Concat(net.Shape(x, start=0, end=1), ints(3, *size), axis=0)
        else:
            sizes = net.Concat(net.Slice(net.Shape(x), ints(0), ints(2)), ints(*size), axis=0)
        return net.Tanh(net.Resize(x, None, None, sizes, mode=mode, **attributes))

    Classifier((3,), 6).check(
        folder, operator, lambda x: F.interpolate(x.tanh(), size, **keywords).tanh()
    )


@covers(("Slice", 0))
@few(24)
@given(data=st.data())
def test_slice(folder: Path, data: st.DataObject) -> None:
    size = 9
    shape = (BATCH, 6, size - 2, size - 1)
    axes = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3, unique=True))
    index = [slice(None)] * 4
    for axis in axes:
        step = data.draw(st.integers(1, 4))
        start = data.draw(st.integers(-shape[axis], shape[axis] - 1))
        end = data.draw(st.sampled_from([1, 3, shape[axis], -1, -2, 2**31 - 1]))
        index[axis] = slice(start, end, step)
        assume(len(range(*index[axis].indices(shape[axis]))) > 0)
    names = [a - 4 if data.draw(st.booleans()) else a for a in axes]
    parts = [ints(*(getattr(index[a], k) for a in axes)) for k in ("start", "stop", "step")]
    Classifier((6,), size).check(
        folder,
        lambda net, x: net.Tanh(net.Slice(net.Tanh(x), parts[0], parts[1], ints(*names), parts[2])),
        lambda x: x.tanh()[tuple(index)].tanh(),
    )


def test_slice_without_axes_and_steps(folder: Path) -> None:
    """Exporters also write the axes that are taken whole."""
    Classifier((6,), 9).check(
        folder,
        lambda net, x: net.Tanh(
            net.Slice(net.Tanh(x), ints(0, 1, 0, 2), ints(2**31 - 1, 4, 2**31 - 1, -1))
        ),
        lambda x: x.tanh()[:, 1:4, :, 2:-1].tanh(),
    )


# Reductions and pooling -------------------------------------------------------------------------


@covers(("ReduceMean", 0), ("ReduceSum", 0))
@few(20)
@given(
    op=st.sampled_from(["ReduceMean", "ReduceSum"]),
    axes=st.sampled_from([(1,), (2,), (3,), (2, 3), (1, 3), (3, 1), (1, 2, 3)]),
    negative=st.booleans(),
    keepdims=st.booleans(),
)
def test_reductions(
    folder: Path, op: str, axes: tuple[int, ...], negative: bool, keepdims: bool
) -> None:
    named = ints(*(a - 4 if negative else a for a in axes))
    reduce = torch.mean if op == "ReduceMean" else torch.sum
    if len(axes) == 3 and not keepdims:
        keepdims = True  # [B] alone is no activation that a linear layer takes
    Classifier((4,), 6).check(
        folder,
        lambda net, x: _square(net, net.append(op, net.Tanh(x), named, keepdims=int(keepdims))),
        lambda x: reduce(x.tanh(), axes, keepdim=keepdims) ** 2,
    )


@covers(("ReduceMax", 0))
@few(8)
@given(axes=st.sampled_from([(1,), (2, 3), (3,), (1, 2, 3)]), keepdims=st.booleans())
def test_maximum_over_axes(folder: Path, axes: tuple[int, ...], keepdims: bool) -> None:
    """Equal maxima share the gradient."""
    keepdims = keepdims or len(axes) == 3
    Classifier((4,), 6).check(
        folder,
        lambda net, x: _square(
            net, net.ReduceMax(net.Concat(x, x, axis=3), ints(*axes), keepdims=int(keepdims))
        ),
        lambda x: torch.cat([x, x], 3).amax(axes, keepdim=keepdims) ** 2,
    )


@covers(("Softmax", 0))
@pytest.mark.parametrize("axis", [1, 2, 3, -1, -2])
def test_softmax_between_layers(folder: Path, axis: int) -> None:
    """SKNet's choice of a branch, and attention."""
    Classifier((4,), 6).check(
        folder,
        lambda net, x: net.Mul(net.Softmax(x, axis=axis), net.Tanh(x)),
        lambda x: x.softmax(axis) * x.tanh(),
    )


@covers(("GlobalAveragePool", 0))
@pytest.mark.parametrize("size", [4, 7])
def test_global_average_pool(folder: Path, size: int) -> None:
    Classifier((4,), size).check(
        folder,
        lambda net, x: net.GlobalAveragePool(net.Tanh(x)),
        lambda x: x.tanh().mean((2, 3)),
    )


windows = st.tuples(st.integers(1, 3), st.integers(1, 3))
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))


def assume_windows_start_inside(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> None:
    """With ceil_mode ONNX and PyTorch disagree on windows beyond the input; we refuse them."""
    for n, k, s, p, d in zip(size, kernel, stride, pads, dilation, strict=True):
        last = -(-(n + 2 * p - (k - 1) * d - 1) // s) * s
        assume(last - p < n)


dilations = st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)])


@covers(("MaxPool", 0))
@few(25)
@given(
    kernel=windows,
    stride=strides,
    dilation=dilations,
    data=st.data(),
    ceil=st.booleans(),
)
def test_max_pool(
    folder: Path,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    data: st.DataObject,
    ceil: bool,
) -> None:
    """Windows overlap wherever the stride is smaller than the kernel."""
    half = [k // 2 for k in kernel]
    pads = (data.draw(st.integers(0, half[0])), data.draw(st.integers(0, half[1])))
    if ceil:
        assume_windows_start_inside((7, 8), kernel, stride, pads, dilation)
    # PyTorch pads both sides alike, and a pad of its own beforehand counts as input in ceil_mode.
    more = [0 if ceil else data.draw(st.integers(0, half[a] - pads[a])) for a in range(2)]
    attributes = {
        "kernel_shape": kernel,
        "strides": stride,
        "dilations": dilation,
        "pads": [*pads, pads[0] + more[0], pads[1] + more[1]],
        "ceil_mode": int(ceil),
    }

    def mathematics(x: Tensor) -> Tensor:
        x = F.pad(x, (0, more[1], 0, more[0]), value=-torch.inf)
        return F.max_pool2d(x, kernel, stride, pads, dilation, ceil_mode=ceil)

    Classifier((3,), 9).check(folder, lambda net, x: net.MaxPool(x, **attributes), mathematics)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (2, 1, 0), (3, 1, 1)])
def test_max_pool_hands_a_tie_to_the_first(
    folder: Path, axis: int, kernel: int, stride: int, pad: int
) -> None:
    """Two layers of equal values side by side: which one gets the gradient shows in `affine`."""
    classifier = Classifier((3, 3), 8)
    classifier.kernels = [classifier.normal(3, 3, 1, 1)] * 2
    other = Norm(classifier.rng, 3)
    for mine, theirs in zip(classifier.norms[0].parts, other.parts, strict=True):
        theirs[:] = mine
    other.trained = [p.detach().clone().requires_grad_() for p in classifier.norms[0].trained]
    classifier.norms[1] = other
    line = classifier.images.take([0], axis - 1)
    classifier.images = line.repeat(8, axis - 1)
    window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    classifier.check(
        folder,
        lambda net, a, b: net.MaxPool(net.Concat(a, b, axis=axis), **window),
        lambda a, b: F.max_pool2d(torch.cat([a, b], axis), kernel, stride, pad),
    )


@covers(("AveragePool", 0))
@few(25)
@given(
    kernel=windows,
    stride=strides,
    data=st.data(),
    include=st.booleans(),
    ceil=st.booleans(),
)
def test_average_pool(
    folder: Path,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    data: st.DataObject,
    include: bool,
    ceil: bool,
) -> None:
    half = [k // 2 for k in kernel]
    pads = (data.draw(st.integers(0, half[0])), data.draw(st.integers(0, half[1])))
    if ceil:
        assume_windows_start_inside((7, 8), kernel, stride, pads)
    Classifier((3,), 9).check(
        folder,
        lambda net, x: net.AveragePool(
            x,
            kernel_shape=kernel,
            strides=stride,
            pads=[*pads, *pads],
            count_include_pad=int(include),
            ceil_mode=int(ceil),
        ),
        lambda x: F.avg_pool2d(x, kernel, stride, pads, ceil, include),
    )


@few(12)
@given(
    kernel=windows,
    stride=strides,
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    include=st.booleans(),
)
def test_average_pool_with_asymmetric_padding(
    folder: Path,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: list[int],
    include: bool,
) -> None:
    pads = [min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)]
    top, left, bottom, right = pads

    def mathematics(x: Tensor) -> Tensor:
        around = (left, right, top, bottom)
        inside = F.avg_pool2d(F.pad(torch.ones_like(x), around), kernel, stride)
        mean = F.avg_pool2d(F.pad(x, around), kernel, stride)
        return mean if include else mean / inside

    Classifier((3,), 8).check(
        folder,
        lambda net, x: net.AveragePool(
            x, kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=int(include)
        ),
        mathematics,
    )


# Convolutions -----------------------------------------------------------------------------------


@covers(("Conv", 0))
@few(40)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=strides,
    dilation=dilations,
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    channels=st.sampled_from([(4, 6, 1), (4, 4, 4), (4, 8, 4), (4, 6, 2), (6, 3, 3), (3, 1, 1)]),
    bias=st.booleans(),
)
def test_conv(
    folder: Path,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: list[int],
    channels: tuple[int, int, int],
    bias: bool,
) -> None:
    """Dense, grouped and depthwise; padding may differ on all sides and exceed the kernel."""
    into, out, group = channels
    size = 9
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    top, left, bottom, right = pads
    assume(size - 2 + top + bottom >= reach[0])
    assume(size - 1 + left + right >= reach[1])
    classifier = Classifier((into,), size)
    weight = classifier.normal(out, into // group, *kernel)
    added = classifier.normal(out) if bias else None

    def operator(net: Net, x: str) -> str:
        inputs = [weight] if added is None else [weight, added]
        attributes = {"strides": stride, "dilations": dilation, "pads": pads, "group": group}
        return net.Tanh(net.Conv(net.Tanh(x), *inputs, kernel_shape=kernel, **attributes))

    def mathematics(x: Tensor) -> Tensor:
        x = F.pad(x.tanh(), (left, right, top, bottom))
        b = None if added is None else torch.from_numpy(added).double()
        w = torch.from_numpy(weight).double()
        return F.conv2d(x, w, b, stride, 0, dilation, group).tanh()

    classifier.check(folder, operator, mathematics)


@few(15)
@given(
    op=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
    mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    kernel=windows,
    stride=strides,
)
def test_automatic_padding(
    folder: Path, op: str, mode: str, kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    """SAME: as many windows as strides fit, the odd pixel at the end (upper) or start (lower)."""
    size = 9
    pads = []
    for n, k, s in zip((size - 2, size - 1), kernel, stride, strict=True):
        total = 0 if mode == "VALID" else max((-(-n // s) - 1) * s + k - n, 0)
        pads.append((total // 2, total - total // 2)[:: 1 if mode == "SAME_UPPER" else -1])
    around = (*pads[1], *pads[0])
    classifier = Classifier((4,), size)
    weight = classifier.normal(4, 2, *kernel)

    def operator(net: Net, x: str) -> str:
        if op == "Conv":
            return net.Conv(x, weight, strides=stride, auto_pad=mode, group=2)
        return net.append(op, x, kernel_shape=kernel, strides=stride, auto_pad=mode)

    def mathematics(x: Tensor) -> Tensor:
        if op == "Conv":
            w = torch.from_numpy(weight).double()
            return F.conv2d(F.pad(x, around), w, stride=stride, groups=2)
        if op == "MaxPool":
            return F.max_pool2d(F.pad(x, around, value=-torch.inf), kernel, stride)
        inside = F.avg_pool2d(F.pad(torch.ones_like(x), around), kernel, stride)
        return F.avg_pool2d(F.pad(x, around), kernel, stride) / inside

    classifier.check(folder, operator, mathematics)


@few(16)
@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    channels=st.sampled_from([(1, 1, 1), (4, 6, 1), (4, 4, 4), (4, 6, 2)]),
)
def test_convolution_of_a_sequence(
    folder: Path,
    kernel: int,
    stride: int,
    dilation: int,
    pads: tuple[int, int],
    channels: tuple[int, int, int],
) -> None:
    """ECA convolves along the channels."""
    into, out, group = channels
    classifier = Classifier((4,), 6)
    weight = classifier.normal(out, into // group, kernel)
    attributes = {"strides": [stride], "dilations": [dilation], "pads": pads, "group": group}
    classifier.check(
        folder,
        lambda net, x: net.Tanh(
            net.Conv(net.Reshape(net.Tanh(x), ints(0, into, -1)), weight, **attributes)
        ),
        lambda x: F.conv1d(
            F.pad(x.tanh().reshape(BATCH, into, -1), pads),
            torch.from_numpy(weight).double(),
            None,
            stride,
            0,
            dilation,
            group,
        ).tanh(),
    )


def test_pad_before_a_convolution(folder: Path) -> None:
    classifier = Classifier((4,), 8)
    weight = classifier.normal(5, 4, 3, 3)
    classifier.check(
        folder,
        lambda net, x: net.Conv(
            net.Pad(net.Relu(x), ints(0, 0, 0, 1, 0, 0, 2, 1)), weight, strides=[2, 2]
        ),
        lambda x: F.conv2d(
            F.pad(x.relu(), (1, 1, 0, 2)), torch.from_numpy(weight).double(), stride=2
        ),
    )


# Linear maps ------------------------------------------------------------------------------------


@covers(("Gemm", 0))
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("alpha", "bias"), [(1.0, False), (0.5, True)])
def test_gemm(folder: Path, transposed: int, alpha: float, bias: bool) -> None:
    classifier = Classifier((4,), 5)
    weight = classifier.normal(*((6, 48) if transposed else (48, 6)))
    added = classifier.normal(6)
    w = torch.from_numpy(weight.T if transposed else weight).double()

    def operator(net: Net, x: str) -> str:
        inputs = [weight, added] if bias else [weight]
        return net.Tanh(net.Gemm(net.Flatten(x), *inputs, transB=transposed, alpha=alpha, beta=2.0))

    def mathematics(x: Tensor) -> Tensor:
        y = alpha * x.flatten(1) @ w
        return (y + 2 * torch.from_numpy(added).double() if bias else y).tanh()

    classifier.check(folder, operator, mathematics)


@covers(("MatMul", 0))
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_matmul(folder: Path, rank: int) -> None:
    classifier = Classifier((4,), 6)
    shape = {2: (-1, 80), 3: (-1, 16, 5), 4: (-1, 4, 4, 5)}[rank]
    weight = classifier.normal(shape[-1], 3)
    classifier.check(
        folder,
        lambda net, x: net.Tanh(net.MatMul(net.Reshape(x, ints(*shape)), weight)),
        lambda x: (x.reshape(shape) @ torch.from_numpy(weight).double()).tanh(),
    )


@covers(("MatMul", 1))
@few(12)
@given(heads=st.sampled_from([1, 2, 4]), shared=st.booleans(), constant=st.booleans())
def test_attention(folder: Path, heads: int, shared: bool, constant: bool) -> None:
    """Products of two activations, the second one shared by all heads (MobileNetV4) or not."""
    mine = (-1, heads, 4 // heads, 20)
    classifier = Classifier((4,), 6)
    mixer = classifier.normal(*((heads,) if heads > 1 else ()), 3, 4 // heads)

    def operator(net: Net, x: str) -> str:
        a = net.Reshape(net.Tanh(x), ints(*mine))
        b = net.ReduceMean(a, ints(1), keepdims=1) if shared else net.Relu(a)
        if constant:
            return net.Tanh(net.MatMul(mixer, a))
        scores = net.Softmax(net.MatMul(a, net.Transpose(b, perm=[0, 1, 3, 2])), axis=-1)
        return net.Tanh(net.MatMul(scores, b))

    def mathematics(x: Tensor) -> Tensor:
        a = x.tanh().reshape(mine)
        b = a.mean(1, keepdim=True) if shared else a.relu()
        if constant:
            return (torch.from_numpy(mixer).double() @ a).tanh()
        return ((a @ b.transpose(2, 3)).softmax(-1) @ b).tanh()

    classifier.check(folder, operator, mathematics)


@covers(("Einsum", 0), ("Einsum", 1))
@pytest.mark.parametrize(
    "equation",
    ["bcij,bcik->bcjk", "b c i j, b d i j -> b c d", "bcij,bdij->bdcji", "bcij,bckl->bijkl"],
)
def test_einsum(folder: Path, equation: str) -> None:
    Classifier((4,), 6).check(
        folder,
        lambda net, x: net.Tanh(net.Einsum(net.Tanh(x), net.Relu(x), equation=equation)),
        lambda x: torch.einsum(equation, x.tanh(), x.relu()).tanh(),
    )


# Normalisation of one image at a time -----------------------------------------------------------


@covers(("LayerNormalization", 0))
@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_layer_norm(folder: Path, axis: int) -> None:
    classifier = Classifier((4,), 6)
    shape = (4, 4, 5)[axis - 1 if axis > 0 else axis :]
    scale, bias = classifier.normal(*shape), classifier.normal(*shape)
    parts = [torch.from_numpy(p).double() for p in (scale, bias)]
    classifier.check(
        folder,
        lambda net, x: net.Tanh(
            net.LayerNormalization(net.Tanh(x), scale, bias, axis=axis, epsilon=1e-3)
        ),
        lambda x: F.layer_norm(x.tanh(), shape, *parts, eps=1e-3).tanh(),
    )


@covers(("InstanceNormalization", 0))
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(folder: Path, groups: int) -> None:
    """PyTorch writes it as the normalisation of reshaped instances."""
    classifier = Classifier((4,), 6)
    scale, bias = classifier.normal(groups), classifier.normal(groups)

    def operator(net: Net, x: str) -> str:
        y = net.Reshape(net.Tanh(x), ints(0, groups, -1))
        return net.Tanh(net.InstanceNormalization(y, scale, bias, epsilon=1e-3))

    def mathematics(x: Tensor) -> Tensor:
        parts = [torch.from_numpy(p).double() for p in (scale, bias)]
        y = x.tanh().reshape(BATCH, groups, -1)
        return F.instance_norm(y, None, None, *parts, eps=1e-3).tanh()

    classifier.check(folder, operator, mathematics)


# Batch normalisation ----------------------------------------------------------------------------


@covers(("BatchNormalization", 0))
@few(15)
@given(
    channels=st.integers(1, 5),
    out=st.integers(1, 5),
    size=st.integers(4, 8),
    source_samples=st.sampled_from([0.0, 0.0, 1.5, 16.0]),
)
def test_batch_norm_below_a_batch_norm(
    folder: Path, channels: int, out: int, size: int, source_samples: float
) -> None:
    """The gradient passes through the mean and the variance of the second layer's batch."""
    classifier = Classifier((channels,), size, seed=size)
    weight = classifier.normal(out, channels, 2, 2)
    norm = classifier.norm(out)
    burst = BurstSettings.default(CLASSES).with_changes(
        batch_size=BATCH, window=BATCH, source_samples=source_samples
    )
    classifier.check(
        folder,
        lambda net, x: net.Tanh(net.BatchNormalization(net.Conv(net.Tanh(x), weight), *norm.parts)),
        lambda x: norm(
            F.conv2d(x.tanh(), torch.from_numpy(weight).double()), burst.source_weight
        ).tanh(),
        source_samples,
    )


@pytest.mark.parametrize("source_samples", [0.0, 4.0])
def test_batch_norm_of_vectors(folder: Path, source_samples: float) -> None:
    """BatchNorm1d on [B, C], and directly on another BatchNorm."""
    classifier = Classifier((4,), 6)
    weight = classifier.normal(4, 7)
    first, second = classifier.norm(7), classifier.norm(7)
    share = source_samples / (source_samples + BATCH)

    def operator(net: Net, x: str) -> str:
        y = net.Gemm(net.Flatten(net.GlobalAveragePool(net.Relu(x))), weight)
        y = net.BatchNormalization(y, *first.parts, epsilon=1e-5)
        return net.Relu(net.BatchNormalization(net.Tanh(y), *second.parts))

    def mathematics(x: Tensor) -> Tensor:
        y = x.relu().mean((2, 3)) @ torch.from_numpy(weight).double()
        return second(first(y, share).tanh(), share).relu()

    # Vectors of few samples: E[x^2] - E[x]^2 over three values keeps fewer digits.
    classifier.check(folder, operator, mathematics, source_samples, tolerance=2e-4)


def test_epsilon_comes_from_the_layer(folder: Path) -> None:
    classifier = Classifier((4,), 6)
    norm = classifier.norm(4)
    scale, shift = norm.trained
    classifier.check(
        folder,
        lambda net, x: net.Relu(
            net.BatchNormalization(net.Mul(net.Tanh(x), scalar(0.01)), *norm.parts, epsilon=0.001)
        ),
        lambda x: F.batch_norm(
            0.01 * x.tanh(), None, None, scale, shift, training=True, eps=0.001
        ).relu(),
    )


def test_residual_block(folder: Path) -> None:
    """The gradients of the two paths into an activation add up."""
    classifier = Classifier((4,), 8)
    weight = classifier.normal(4, 4, 3, 3)
    norm = classifier.norm(4)
    classifier.check(
        folder,
        lambda net, x: net.Relu(
            net.Add(
                x, net.BatchNormalization(net.Conv(net.Relu(x), weight, pads=[1] * 4), *norm.parts)
            )
        ),
        lambda x: (
            x + norm(F.conv2d(x.relu(), torch.from_numpy(weight).double(), padding=1), 0.0)
        ).relu(),
    )


# The table --------------------------------------------------------------------------------------


def test_every_rule_has_a_test() -> None:
    entries = {(op, i) for op, rules in RULES.items() for i in rules if op != "Concat" or i < 3}
    assert entries == COVERED


# What has no rule -------------------------------------------------------------------------------

REFUSED: list[tuple[str, int, Operator, list[str]]] = [
    ("operator", 80, lambda net, x: net.Sin(x), ["ai.onnx::Sin", "respect to its input 0", "'node Sin_2'"]),
    ("second output", 16, lambda net, x: _layer_mean(net, x), ["LayerNormalization", "second output"]),
    ("powers", 80, lambda net, x: net.Pow(x, np.full(5, 2, np.float32)), ["Pow", "exponents that differ"]),
    ("batch slice", 80, lambda net, x: net.Slice(x, ints(0), ints(2), ints(0)), ["Slice", "a slice of the batch"]),
    ("negative step", 80, lambda net, x: net.Slice(x, ints(-1), ints(-9), ints(2), ints(-1)), ["Slice", "negative step"]),
    ("batch mean", 80, lambda net, x: net.Sub(x, net.ReduceMean(x, ints(0, 2), keepdims=1)), ["ReduceMean", "over the batch"]),
    ("sum of all", 80, lambda net, x: net.Div(x, net.ReduceSum(x, keepdims=1)), ["ReduceSum", "over the batch"]),
    ("batch concat", 80, lambda net, x: net.Concat(x, x, axis=0), ["Concat", "along the batch"]),
    ("vector", 16, lambda net, x: net.MatMul(x, np.ones(5, np.float32)), ["MatMul", "with a vector"]),
    ("antialias", 36, lambda net, x: net.Resize(x, None, np.array([1, 1, 0.75, 0.6], np.float32), mode="linear", antialias=1), ["Resize", "antialiasing"]),
    ("sum in einsum", 16, lambda net, x: net.Einsum(x, x, equation="bcij,bcik->bci"), ["Einsum", "sums over one"]),
    ("short einsum", 80, lambda net, x: net.Einsum(x, equation="bcij->bcji"), ["Einsum", "the equation"]),
    ("transposed batch", 80, lambda net, x: net.Gemm(net.Transpose(net.Flatten(x), perm=[1, 0]), np.ones((80, 80), np.float32), transA=1), ["Gemm", "transposed batch"]),
    ("volume", 48, lambda net, x: net.MaxPool(net.Unsqueeze(x, ints(2)), kernel_shape=[1, 2, 2]), ["MaxPool", "3-dimensional"]),
    ("late window", 36, lambda net, x: net.MaxPool(x, kernel_shape=[2, 1], strides=[1, 3], ceil_mode=1), ["MaxPool", "start beyond"]),
    ("computed bound", 80, lambda net, x: net.Clip(x, net.ReduceMin(net.Abs("x"), keepdims=0)), ["Clip", "its input 1 is computed"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("features", "operator", "what"), [pytest.param(*case, id=name) for name, *case in REFUSED]
)
def test_missing_rule_names_operator_node_and_model(
    folder: Path, features: int, operator: Operator, what: list[str]
) -> None:
    with pytest.raises(EdgewfError) as error:
        Classifier((4,), 6).export(folder, operator, features)
    for part in ("net: no gradient rule for operator", *what):
        assert part in str(error.value)


def test_control_flow_is_refused(folder: Path) -> None:
    def operator(net: Net, x: str) -> str:
        branches = [
            helper.make_graph(
                [helper.make_node(op, [x], [op])],
                op,
                [],
                [helper.make_tensor_value_info(op, onnx.TensorProto.FLOAT, None)],
            )
            for op in ("Relu", "Tanh")
        ]
        total = net.ReduceSum("x", keepdims=0)
        condition = net.Less(total, scalar(0))
        return net.If(condition, then_branch=branches[0], else_branch=branches[1])

    with pytest.raises(EdgewfError, match="net: If 'node If_4' runs a part of the graph"):
        Classifier((4,), 6).export(folder, operator, 80)


def test_batch_norm_without_influence_on_the_logits_is_left_out(folder: Path) -> None:
    classifier = Classifier((4, 3), 6)
    engine = classifier.export(folder, lambda net, a, b: net.Relu(a), 80)
    gradient = engine.affine_gradient(classifier.images, classifier.normal(BATCH, CLASSES))[1]
    assert gradient.shape == (8,)
