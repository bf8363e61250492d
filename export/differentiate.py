"""Reverse-mode differentiation of an ONNX graph with respect to its BatchNorm scales and shifts.

The walk visits only nodes between some BatchNorm output and the logits; below the first
BatchNorm nothing trains, so the stem convolution gets no input gradient. What the rules ask of
the forward pass becomes a residual: an output of `forward` and an input of `backward`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.builder import IR_VERSION, OPSET, Builder, graph_value
from edgewf.export.gradients import RULES, Statistics

BATCH = "batch"


@dataclass(frozen=True)
class NormLayer:
    """One BatchNormalization node and where its parameters lie in the affine vector.

    `affine[offset : offset + channels]` is the scale, the next `channels` values the shift.
    """

    node: ir.Node
    channels: int
    offset: int

    @property
    def name(self) -> str:
        """The layer's name, from its scale parameter where that has one."""
        scale = self.node.inputs[1]
        assert scale is not None
        return str(scale.name).removesuffix(".weight")

    @property
    def centred(self) -> str:
        """Name of the residual x - mean, [B, C, H, W]."""
        return f"{self.node.outputs[0].name}.centred"

    @property
    def offset_name(self) -> str:
        """Name of the residual by which the mixed mean lies below the batch's, [1, C, 1, 1]."""
        return f"{self.node.outputs[0].name}.offset"

    @property
    def inv_std(self) -> str:
        """Name of the residual 1/sqrt(var + eps), [1, C, 1, 1]."""
        return f"{self.node.outputs[0].name}.inv_std"


def norm_layers(graph: ir.Graph) -> list[NormLayer]:
    """List the BatchNormalization layers in graph order, which is the order of `affine`."""
    layers: list[NormLayer] = []
    offset = 0
    for node in graph:
        if node.op_type == "BatchNormalization" and node.domain == "":
            channels = static_shape(node.inputs[0])[0]
            layers.append(NormLayer(node, channels, offset))
            offset += 2 * channels
    return layers


def static_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Return a value's shape without its batch axis; it must be static."""
    if value is None or value.shape is None:
        raise EdgewfError(
            f"the shape of {value.name if value else 'a missing input'!r} cannot be inferred: "
            "re-export the model with static height and width"
        )
    dims = list(value.shape)[1:]
    if not all(isinstance(d, int) for d in dims):
        raise EdgewfError(
            f"value {value.name!r} has the shape {value.shape}, but only the batch may be "
            "symbolic: re-export the model with static height and width"
        )
    return tuple(int(d) for d in dims)  # type: ignore[arg-type]


def differentiate(graph: ir.Graph, model_name: str) -> ir.Model:
    """Return the backward graph: `dlogits`, residuals, `affine`, `source_weight` -> `affine_grad`.

    Args:
        graph: the deployed network, `images` -> `logits`, in canonical form (see `canonical`).
        model_name: for error messages.

    Raises:
        EdgewfError: an operator on the way has no gradient rule, or not for its form.
    """
    layers = norm_layers(graph)
    by_node = {layer.node: layer for layer in layers}
    logits = graph.outputs[0]
    classes = static_shape(logits)[0]
    total = sum(2 * layer.channels for layer in layers)

    active = _active_values(graph)
    tape = _Tape(layers, total)
    op = tape.op
    dlogits = graph_value("dlogits", [BATCH, classes], ir.DataType.FLOAT)
    tape.inputs["dlogits"] = dlogits
    gradients: dict[ir.Value, list[ir.Value]] = {logits: [dlogits]}
    affine_grads: dict[NormLayer, list[ir.Value]] = {}

    for node in reversed(list(graph)):
        parts = [gradients.pop(y, []) for y in node.outputs]
        if not any(parts) or not any(y in active for y in node.outputs):
            continue
        if any(parts[1:]):
            raise _no_rule(node, model_name, "its second output is used")
        g = _total(op, parts[0])
        layer = by_node.get(node)
        place = _Place(node, tape, active, layer, dlogits)
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

    def __init__(self, layers: list[NormLayer], total: int) -> None:
        self.op = Builder("grad_")
        self.inputs: dict[str, ir.Value] = {}
        self.weights: dict[str, ir.Value] = {}
        self.affine = graph_value("affine", [total], ir.DataType.FLOAT)
        self.source_weight = graph_value("source_weight", [1], ir.DataType.FLOAT)
        sizes = [layer.channels for layer in layers for _ in range(2)]
        pieces = self.op.multi("Split", (self.affine, self.op.ints(*sizes)), len(sizes), axis=0)
        self.scales = dict(zip(layers, pieces[::2], strict=True))

    def saved(self, value: ir.Value) -> ir.Value:
        """Return a forward value as the backward graph sees it: a weight or a residual."""
        assert value.name is not None
        if value.const_value is not None:
            if value.name not in self.weights:
                self.weights[value.name] = ir.Value(
                    name=value.name,
                    shape=value.shape,
                    type=value.type,
                    const_value=value.const_value,
                )
            return self.weights[value.name]
        return self.residual(value.name, [BATCH, *static_shape(value)])

    def residual(self, name: str, shape: list[int | str]) -> ir.Value:
        """Return the residual `name`, declared as a graph input the first time."""
        if name not in self.inputs:
            self.inputs[name] = graph_value(name, shape, ir.DataType.FLOAT)
        return self.inputs[name]

    def model(self, output: ir.Value) -> ir.Model:
        graph = ir.Graph(
            [*self.inputs.values(), self.affine, self.source_weight],
            [output],
            nodes=self.op.nodes,
            initializers=[*self.weights.values(), *self.op.constants],
            opset_imports={"": OPSET},
            name="backward",
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgewf")


class _Place:
    """Implements `gradients.Place` for one node."""

    def __init__(
        self,
        node: ir.Node,
        tape: _Tape,
        active: set[ir.Value],
        layer: NormLayer | None,
        dlogits: ir.Value,
    ) -> None:
        self.affine_grads: list[ir.Value] = []
        self._node, self._tape, self._active = node, tape, active
        self._layer, self._dlogits = layer, dlogits

    @property
    def y(self) -> ir.Value:
        return self._tape.saved(self._node.outputs[0])

    def x(self, i: int) -> ir.Value:
        return self._tape.saved(self._input(i))

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
        layer, tape = self._layer, self._tape
        assert layer is not None
        channels, *spatial = self.shape(0)
        per_channel: list[int | str] = [1, channels, *(1 for _ in spatial)]
        op = tape.op
        batch = op.Cast(
            op.Gather(op.Shape(self._dlogits), op.constant(0, np.int64)),
            to=ir.DataType.FLOAT.value,
        )
        return Statistics(
            centred=tape.residual(layer.centred, [BATCH, channels, *spatial]),
            offset=tape.residual(layer.offset_name, per_channel),
            inv_std=tape.residual(layer.inv_std, per_channel),
            scale=tape.scales[layer],
            count=op.Mul(batch, op.constant(math.prod(spatial))),
            batch_weight=op.Sub(op.constant(1.0), tape.source_weight),
        )

    def _input(self, i: int) -> ir.Value:
        value = self._node.inputs[i]
        assert value is not None
        return value


def _active_values(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on a BatchNorm scale or shift."""
    active: set[ir.Value] = set()
    for node in graph:
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
