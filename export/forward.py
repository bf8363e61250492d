"""The deployed network as the two graphs that run it: `infer`, and `forward` for a burst."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgewf.errors import EdgewfError
from edgewf.export.builder import OPSET, Builder, graph_value
from edgewf.export.normalisation import (
    BATCH,
    STATISTICS,
    mixed_mean,
    mixture,
    norm_layers,
    per_layer,
    slope_and_shift,
    static_shape,
)
from edgewf.preprocessing import Preprocessing

_ARITHMETIC = {"Add", "Mul", "Div"}
_VIEW_OPERATORS = {"Flatten", "Reshape", "Squeeze", "Dropout", "Identity"}


def embedding_of(graph: ir.Graph) -> ir.Value:
    """Return the input of the last linear layer, the features that the classifier sees.

    Of several heads whose logits are averaged, as distilled networks have, it is the first.
    """
    value = graph.outputs[0]
    while (node := value.producer()) is not None:
        source = node.inputs[0]
        if source is None:
            break
        if node.op_type in ("Gemm", "MatMul", "Conv"):
            return source
        if node.op_type in _ARITHMETIC:
            # A bias added behind a MatMul, or the mean of several heads.
            source = next((x for x in node.inputs if x is not None and x.const_value is None), None)
            if source is None:
                break
        elif node.op_type not in _VIEW_OPERATORS | {"Softmax", "GlobalAveragePool", "ReduceMean"}:
            break
        value = source
    raise EdgewfError(
        f"no linear layer found before the output {graph.outputs[0].name!r}: "
        "edgewf monitors classifiers that end in one"
    )


def classifier_of(deployed: ir.Model, embedding: str) -> ir.Model | None:
    """Return what comes behind the value `embedding`: `embedding` [B, D] -> `logits`.

    None where the logits depend on the frames by another way, too, as with several heads.
    """
    model = deployed.clone()
    graph = model.graph
    value = next((v for node in graph for v in node.outputs if v.name == embedding), None)
    if value is None:
        raise EdgewfError(f"value {embedding!r} is an input of the graph and no embedding")
    dims = static_shape(value)
    entry = graph_value("embedding", [BATCH, math.prod(dims)], ir.DataType.FLOAT)
    op = Builder("classifier_")
    x = op.Reshape(entry, op.ints(-1, *dims))
    x.shape, x.type = value.shape, value.type
    value.replace_all_uses_with(x)
    (images,) = graph.inputs
    graph.inputs.append(entry)
    _prepend(graph, op)
    passes.RemoveUnusedNodesPass()(model)
    if images.uses():
        return None
    graph.inputs.remove(images)
    return model


def take_frames(graph: ir.Graph, preprocessing: Preprocessing) -> None:
    """Put uint8 NHWC `images` and their normalisation before the float NCHW input, in place."""
    old = graph.inputs[0]
    size = preprocessing.image_size
    images = graph_value("images", [BATCH, size, size, 3], ir.DataType.UINT8)
    op = Builder("frames_")
    mean = np.float32(255) * np.asarray(preprocessing.mean, np.float32)
    scale = 1 / (np.float32(255) * np.asarray(preprocessing.std, np.float32))
    x = op.Transpose(op.Cast(images, to=ir.DataType.FLOAT.value), perm=[0, 3, 1, 2])
    x = op.Sub(x, op.constant(mean.reshape(1, 3, 1, 1)))
    x = op.Mul(x, op.constant(scale.reshape(1, 3, 1, 1)))
    x.shape, x.type = old.shape, old.type
    old.replace_all_uses_with(x)
    graph.inputs[0] = images
    _prepend(graph, op)


def use_batch_statistics(graph: ir.Graph) -> None:
    """Mix the batch's statistics with the running ones, scale and shift from `affine`, in place.

    Per channel over (B, H, W), biased variance, and w = `source_weight` of the running statistics
    (Schneider et al., NeurIPS 2020, equation 3; w = 0 is BatchNorm in training mode, w = 1 the
    deployed network):

        m = (1 - w) mean(x) + w running_mean
        v = (1 - w) (mean(x x) - mean(x)^2) + w running_var
        y = (x - m) / sqrt(v + eps) * scale + shift

    The difference in v is harmless where x is nearly centred (see `centre_convolutions`). All
    layers' mean(x) and 1 / sqrt(v + eps) end in the two vectors named in `STATISTICS`.
    """
    layers = norm_layers(graph)
    affine = graph_value("affine", [sum(2 * layer.channels for layer in layers)], ir.DataType.FLOAT)
    weight = graph_value("source_weight", [1], ir.DataType.FLOAT)
    head = Builder("affine_")
    mix = mixture(head, weight)
    parts = per_layer(head, affine, layers, 2)
    statistics: tuple[list[ir.Value], list[ir.Value]] = ([], [])
    for index, (layer, (scale, shift)) in enumerate(zip(layers, parts, strict=True)):
        node = layer.node
        x = node.inputs[0]
        assert x is not None
        op = Builder(f"norm{index}_")
        axes = op.ints(*layer.axes)
        mean = op.ReduceMean(x, axes, keepdims=1)
        square = op.ReduceMean(op.Mul(x, x), axes, keepdims=1)
        batch_var = op.Relu(op.Sub(square, op.Mul(mean, mean)))
        variance = op.Add(
            op.Mul(batch_var, mix.batch), op.Mul(op.constant(layer.stored(4)), mix.source)
        )
        epsilon = op.constant(node.attributes.get_float("epsilon", 1e-5))
        inv_std = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
        slope, intercept = slope_and_shift(
            op, scale, shift, mixed_mean(op, layer, mean, mix), inv_std
        )
        output = op.Add(op.Mul(x, slope), intercept)
        for values, value in zip(statistics, (mean, inv_std), strict=True):
            values.append(op.Reshape(value, op.ints(-1)))
        op.replace(graph, node, output)
    graph.inputs.extend((affine, weight))
    _prepend(graph, head)
    tail = Builder("statistics_")
    for name, values in zip(STATISTICS, statistics, strict=True):
        vector = tail.Concat(*values, axis=0)
        vector.name = name
        vector.shape = ir.Shape([sum(layer.channels for layer in layers)])
        vector.type = ir.TensorType(ir.DataType.FLOAT)
    tail.insert(graph)


def expose(graph: ir.Graph, embedding: str, residuals: list[str]) -> None:
    """Make `embedding` [B, D] and the residuals outputs beside `logits`, in place."""
    values = {v.name: v for node in graph for v in node.outputs}
    features = values.get(embedding)
    if features is None:
        raise EdgewfError(f"value {embedding!r} is an input of the graph and no embedding")
    dims = static_shape(features)
    op = Builder("embedding_")
    flat = op.Reshape(features, op.ints(-1, math.prod(dims)))
    flat.name = "embedding"
    flat.shape, flat.type = ir.Shape([BATCH, math.prod(dims)]), features.type
    op.insert(graph)
    graph.outputs.append(flat)
    graph.outputs.extend(values[name] for name in residuals)


def _prepend(graph: ir.Graph, op: Builder) -> None:
    op.insert(graph, before=graph.node(0))
    graph.opset_imports[""] = OPSET
