"""Half precision as strongly typed mixed graphs: every type is in the graph, none is chosen later.

Convolutions and linear layers run in float16, and so are their inputs and outputs, which are what
lies in memory. Float32 is all that has no batch axis (statistics, the affine vector, its gradient),
every sum, and the elementwise arithmetic that statistics enter.
TensorRT 10 and later takes the types of the graph and no others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgewf.export.builder import Builder, float_array, initializer
from edgewf.export.normalisation import NormLayer, norm_layers

HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
_FLOATS = (HALF, SINGLE)
_LARGEST = float(np.finfo(np.float16).max)

# These have weights of their own and run in half precision whatever their input is.
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SUMS = frozenset({"ReduceMean", "ReduceSum"})
# On a weight these turn a kernel around for the backward pass.
_VIEWS = frozenset({"Slice", "Transpose", "Reshape"})


def to_half(graph: ir.Graph, single_outputs: frozenset[str]) -> None:
    """Retype a float32 graph in place.

    Layers with weights run in half, and what they hand on stays half until it meets a computed
    float32 value: a slope or a shift, a sum. From there on it is float32, up to the next layer
    with weights. Graph inputs keep the type that they have; graph outputs named in
    `single_outputs` end in float32.
    """
    _spell_out_norms(graph)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        floats = [i for i, x in enumerate(node.inputs) if x is not None and x.dtype in _FLOATS]
        if not floats or node.op_type == "Cast":
            continue
        if node.op_type == "Resize":
            floats = [0]  # scales are float32 in any case
        dtype = _dtype(node)
        for i in floats:
            value = node.inputs[i]
            assert value is not None
            if value.dtype != dtype:
                node.replace_input_with(i, _cast(graph, value, dtype, node, casts))
        for value in node.outputs:
            if value.dtype in _FLOATS:
                value.type = ir.TensorType(dtype)
    for i, value in enumerate(graph.outputs):
        if value.name in single_outputs and value.dtype == HALF:
            graph.outputs[i] = _single_output(graph, value)


def _dtype(node: ir.Node) -> ir.DataType:
    """Return what the operator's floats are to be."""
    first = node.inputs[0]
    turns_weight = node.op_type in _VIEWS and first is not None and first.const_value is not None
    if node.op_type in _LINEAR or turns_weight:
        return HALF
    if node.op_type in _SUMS or _is_mask(node) or _is_read_by_sums_alone(node):
        return SINGLE
    types = {x.dtype for x in node.inputs if x is not None and x.const_value is None}
    return HALF if HALF in types and SINGLE not in types else SINGLE


def _is_mask(node: ir.Node) -> bool:
    """The step functions of the gradient rules: their slope is no half-precision number."""
    return node.op_type == "HardSigmoid" and abs(node.attributes.get_float("alpha", 0)) > _LARGEST


def _is_read_by_sums_alone(node: ir.Node) -> bool:
    """x * x and g * x before they are averaged: products need the range and digits of the sum."""
    uses = [use.node for use in node.outputs[0].uses()]
    return node.op_type == "Mul" and bool(uses) and all(use.op_type in _SUMS for use in uses)


def _cast(
    graph: ir.Graph,
    value: ir.Value,
    dtype: ir.DataType,
    reader: ir.Node,
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    key = (value, dtype)
    if key not in casts:
        name = f"{value.name}.{'half' if dtype == HALF else 'single'}"
        if value.const_value is not None:
            limit = _LARGEST if dtype == HALF else np.inf
            array = np.clip(float_array(value), -limit, limit).astype(dtype.numpy())
            casts[key] = initializer(name, array)
            graph.register_initializer(casts[key])
        else:
            casts[key] = _typed(value, name, dtype)
            graph.insert_before(reader, _cast_node(value, casts[key]))
    return casts[key]


def _single_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Return `value` in float32 under its own name; inside the graph it takes another."""
    result = _typed(value, value.name, SINGLE)
    value.name = f"{value.name}.half"
    graph.append(_cast_node(value, result))
    return result


def _typed(value: ir.Value, name: str | None, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))


def _cast_node(value: ir.Value, result: ir.Value) -> ir.Node:
    to = ir.AttrInt64("to", result.dtype.value if result.dtype is not None else 0)
    return ir.Node("", "Cast", [value], [to], outputs=[result], name=result.name)


def _spell_out_norms(graph: ir.Graph) -> None:
    """Write the deployed network's BatchNormalization as slope and shift, rounded once."""
    for layer in norm_layers(graph):
        op = Builder(f"{layer.node.outputs[0].name}_")
        slope, shift = (op.constant(array) for array in _deployed_affine(layer))
        x = layer.node.inputs[0]
        assert x is not None
        scaled = op.Mul(x, slope)
        scaled.shape, scaled.type = x.shape, x.type
        op.replace(graph, layer.node, op.Add(scaled, shift))


def _deployed_affine(
    layer: NormLayer,
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], ...]:
    scale, shift, mean, var = (layer.stored(i).astype(np.float64) for i in (1, 2, 3, 4))
    slope = scale / np.sqrt(var + layer.node.attributes.get_float("epsilon", 1e-5))
    return slope.astype(np.float32), (shift - mean * slope).astype(np.float32)
