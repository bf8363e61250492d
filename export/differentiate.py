"""Reverse-mode differentiation of an ONNX graph with respect to its BatchNorm scales and shifts.

The walk visits only nodes between some BatchNorm output and the logits; below the first
BatchNorm nothing trains, so the stem convolution gets no input gradient. What the rules ask of
the forward pass becomes a residual: an output of `forward` and an input of `backward`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.builder import IR_VERSION, OPSET, Builder, graph_value
from edgewf.export.gradients import RULES, SEVERAL_OUTPUTS, Statistics
from edgewf.export.normalisation import (
    BATCH,
    STATISTICS,
    NormLayer,
    mixed_mean,
    mixture,
    norm_layers,
    per_layer,
    slope_and_shift,
    static_shape,
)

# Values of these operators are computed again from their inputs instead of being saved: one pass
# over memory, as reading them back would be. Reductions are not here, their results are small.
_CHEAP_OPERATORS = (
    "Add Sub Mul Div Neg Relu LeakyRelu Clip Sigmoid HardSigmoid HardSwish Tanh Softplus Exp Sqrt "
    "Pow Erf DepthToSpace Concat Split Slice Reshape Flatten Squeeze Unsqueeze Transpose Pad "
    "MaxPool AveragePool"
)
_RECOMPUTED = frozenset(_CHEAP_OPERATORS.split())

# Multiply-adds an output element up to which a convolution that makes its input larger is computed
# again, too. At 64 it reads a quarter or less of what it writes and is bound by memory itself.
_CHEAP = 64


def differentiate(graph: ir.Graph, model_name: str, *, low_memory: bool = False) -> ir.Model:
    """Return the backward graph: `dlogits`, residuals, `affine`, `source_weight` -> `affine_grad`.

    Args:
        graph: the deployed network, `images` -> `logits`, in canonical form (see `canonical`).
        model_name: for error messages.
        low_memory: compute every convolution again whose output is larger than its input.

    Raises:
        EdgewfError: an operator on the way has no gradient rule, or not for its form.
    """
    layers = norm_layers(graph)
    by_node = {layer.node: layer for layer in layers}
    logits = graph.outputs[0]
    total = sum(2 * layer.channels for layer in layers)

    active = _active_values(graph)
    tape = _Tape(layers, total, static_shape(logits)[0], low_memory)
    op = tape.op
    gradients: dict[ir.Value, list[ir.Value]] = {logits: [tape.dlogits]}
    affine_grads: dict[NormLayer, list[ir.Value]] = {}

    for node in reversed(list(graph)):
        parts = [gradients.pop(y, []) for y in node.outputs]
        if not any(parts) or not any(y in active for y in node.outputs):
            continue
        several = len(parts) > 1 and node.op_type in SEVERAL_OUTPUTS
        if any(parts[1:]) and not (several and all(parts)):
            raise _no_rule(node, model_name, "its second output is used")
        g, *others = [_total(op, part) for part in parts if part]
        layer = by_node.get(node)
        place = _Place(node, tape, active, others)
        wanted = [i for i, x in enumerate(node.inputs) if x is not None and x in active]
        if layer is not None and 0 not in wanted:
            RULES["BatchNormalization"][0](op, g, place)
        for i in wanted:
            rule = RULES.get(node.op_type, {}).get(i) if node.domain == "" else None
            if rule is None:
                raise _no_rule(node, model_name, f"with respect to its input {i}")
            try:
                result = rule(op, g, place)
            except NotImplementedError as error:
                raise _no_rule(node, model_name, str(error)) from error
            gradients.setdefault(node.inputs[i], []).append(result)  # type: ignore[arg-type]
        if layer is not None:
            affine_grads[layer] = place.affine_grads

    missing = [layer.name for layer in layers if layer not in affine_grads]
    if missing:
        raise EdgewfError(
            f"{model_name}: no path leads from these BatchNorm layers to the logits: "
            f"{', '.join(missing)}; remove the unused branch before exporting"
        )
    result = op.Concat(*(g for layer in layers for g in affine_grads[layer]), axis=0)
    result.name = "affine_grad"
    result.shape, result.type = ir.Shape([total]), ir.TensorType(ir.DataType.FLOAT)
    return tape.model(result)


class _Tape:
    """The backward graph while it grows."""

    def __init__(self, layers: list[NormLayer], total: int, classes: int, low_memory: bool) -> None:
        self._low_memory = low_memory
        self.op = Builder("grad_")
        self.dlogits = graph_value("dlogits", [BATCH, classes], ir.DataType.FLOAT)
        self._affine = graph_value("affine", [total], ir.DataType.FLOAT)
        self._source_weight = graph_value("source_weight", [1], ir.DataType.FLOAT)
        self._residuals: dict[str, ir.Value] = {}
        self._weights: dict[str, ir.Value] = {}
        self._seen: dict[ir.Value, ir.Value] = {}
        op = self.op
        self.mix = mixture(op, self._source_weight)
        mean, inv_std = (self._residual(name, [total // 2]) for name in STATISTICS)
        parts = zip(
            layers,
            per_layer(op, self._affine, layers, 2),
            per_layer(op, mean, layers, 1),
            per_layer(op, inv_std, layers, 1),
            strict=True,
        )
        batch = op.Cast(
            op.Gather(op.Shape(self.dlogits), op.constant(0, np.int64)), to=ir.DataType.FLOAT.value
        )
        self.statistics: dict[ir.Node, Statistics] = {}
        for layer, (scale, shift), (batch_mean,), (r,) in parts:
            used = mixed_mean(op, layer, batch_mean, self.mix)
            slope, intercept = slope_and_shift(op, scale, shift, used, r)
            pixels = math.prod(static_shape(layer.node.inputs[0])[1:])
            self.statistics[layer.node] = Statistics(
                batch_mean,
                used,
                r,
                slope,
                intercept,
                self.mix.batch,
                op.Mul(batch, op.constant(pixels)),
            )

    def seen(self, value: ir.Value) -> ir.Value:
        """Return a forward value in the backward graph: a weight, a residual, or computed again."""
        if value not in self._seen:
            self._seen[value] = self._see(value)
        return self._seen[value]

    def _see(self, value: ir.Value) -> ir.Value:
        assert value.name is not None
        if value.const_value is not None:
            weight = ir.Value(
                name=value.name,
                shape=value.shape,
                type=value.type,
                const_value=value.const_value,
            )
            self._weights[value.name] = weight
            return weight
        node = value.producer()
        if node is not None and node in self.statistics:
            s = self.statistics[node]
            x = node.inputs[0]
            assert x is not None
            return self.op.Add(self.op.Mul(self.seen(x), s.slope), s.shift)
        if node is not None and node.domain == "" and self._is_recomputed(node):
            return self._again(node, value)
        return self._residual(value.name, [BATCH, *static_shape(value)])

    def _is_recomputed(self, node: ir.Node) -> bool:
        if node.op_type != "Conv":
            return node.op_type in _RECOMPUTED
        x, weight, y = node.inputs[0], node.inputs[1], node.outputs[0]
        assert x is not None
        assert weight is not None
        # The network's input stays out: it is no value of the graphs, which take uint8 frames.
        if x.producer() is None or math.prod(static_shape(y)) <= math.prod(static_shape(x)):
            return False
        return self._low_memory or math.prod(static_shape(weight)) <= _CHEAP

    def _again(self, node: ir.Node, value: ir.Value) -> ir.Value:
        inputs = tuple(None if x is None else self.seen(x) for x in node.inputs)
        attributes = {name: a.value for name, a in node.attributes.items()}
        if len(node.outputs) == 1:
            result: ir.Value = getattr(self.op, node.op_type)(*inputs, **attributes)
            return result
        results = self.op.multi(node.op_type, inputs, len(node.outputs), **attributes)
        self._seen.update(zip(node.outputs, results, strict=True))
        return self._seen[value]

    def _residual(self, name: str, shape: list[int | str]) -> ir.Value:
        self._residuals[name] = graph_value(name, shape, ir.DataType.FLOAT)
        return self._residuals[name]

    def model(self, output: ir.Value) -> ir.Model:
        """Close the graph."""
        graph = ir.Graph(
            [self.dlogits, *self._residuals.values(), self._affine, self._source_weight],
            [output],
            nodes=self.op.nodes,
            initializers=[*self._weights.values(), *self.op.constants],
            opset_imports={"": OPSET},
            name="backward",
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgewf")


class _Place:
    """Implements `gradients.Place` for one node."""

    def __init__(
        self, node: ir.Node, tape: _Tape, active: set[ir.Value], others: list[ir.Value]
    ) -> None:
        self.affine_grads: list[ir.Value] = []
        self.others = others
        self._node, self._tape, self._active = node, tape, active

    @property
    def y(self) -> ir.Value:
        return self._tape.seen(self._node.outputs[0])

    def x(self, i: int) -> ir.Value:
        return self._tape.seen(self._input(i))

    def shape(self, i: int) -> tuple[int, ...]:
        value = self._input(i)
        if value.const_value is not None:
            # A weight has no batch; broadcasting rules see its shape behind the output's batch.
            return tuple(value.const_value.shape.numpy())
        return static_shape(value)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return static_shape(self._node.outputs[0])

    def is_active(self, i: int) -> bool:
        return self._input(i) in self._active

    def attribute(self, name: str, default: Any = None) -> Any:
        attribute = self._node.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        return list(value) if isinstance(value, tuple) else value

    def constant(self, i: int) -> np.ndarray[Any, Any] | None:
        value = self._node.inputs[i] if i < len(self._node.inputs) else None
        if value is None:
            return None
        if value.const_value is None:
            raise NotImplementedError(f"its input {i} is computed by the graph")
        return np.asarray(value.const_value.numpy())

    def statistics(self) -> Statistics:
        return self._tape.statistics[self._node]

    def _input(self, i: int) -> ir.Value:
        value = self._node.inputs[i]
        assert value is not None
        return value


def _active_values(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on a BatchNorm scale or shift."""
    active: set[ir.Value] = set()
    for node in graph:
        if node.op_type == "Shape":
            continue  # sizes depend on no value
        if node.op_type == "BatchNormalization" or any(x in active for x in node.inputs if x):
            active.update(node.outputs)
    return active


def _total(op: Builder, parts: list[ir.Value]) -> ir.Value:
    total = parts[0]
    for part in parts[1:]:
        total = op.Add(total, part)
    return total


def _no_rule(node: ir.Node, model_name: str, what: str) -> EdgewfError:
    return EdgewfError(
        f"{model_name}: no gradient rule for operator {node.domain or 'ai.onnx'}::{node.op_type} "
        f"(node {node.name or node.outputs[0].name!r}): {what}; "
        "replace it in the model by supported operators, or add a rule to edgewf/export/gradients"
    )
