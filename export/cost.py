"""What a graph costs an image: multiply-adds, and bytes that wait between forward and backward."""

from __future__ import annotations

import math

import onnx_ir as ir

from edgewf.export.normalisation import BATCH, static_shape


def multiply_adds(graph: ir.Graph) -> int:
    """Count those of convolutions and linear layers, for one image; shapes must be inferred."""
    return sum(_multiply_adds(node) for node in graph)


def _multiply_adds(node: ir.Node) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    x, weight = node.inputs[0], node.inputs[1]
    y = static_shape(node.outputs[0])
    # Of a weight [out, in, *kernel] the first axis is left out, as the batch is elsewhere.
    if node.op_type == "Conv":
        return math.prod(y) * math.prod(static_shape(weight))
    if node.op_type == "ConvTranspose":
        return math.prod(static_shape(x)) * math.prod(static_shape(weight))
    return math.prod(y) * static_shape(x)[-1]


def residual_bytes(backward: ir.Graph, names: list[str]) -> int:
    """Return the bytes an image of the inputs `names` that have a batch axis."""
    values = {v.name: v for v in backward.inputs}
    total = 0.0
    for name in names:
        value = values[name]
        assert value.shape is not None
        assert value.dtype is not None
        if value.shape[0] == BATCH:
            total += math.prod(static_shape(value)) * value.dtype.itemsize
    return int(total)
