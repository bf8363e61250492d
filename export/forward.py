"""The deployed network as the two graphs that run it: `infer`, and `forward` for a burst."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.builder import OPSET, Builder, float_array, graph_value
from edgewf.export.differentiate import BATCH, NormLayer, norm_layers, static_shape
from edgewf.preprocessing import Preprocessing

_VIEW_OPERATORS = {"Flatten", "Reshape", "Squeeze", "Dropout", "Identity"}


def embedding_of(graph: ir.Graph) -> ir.Value:
    """Return the input of the last linear layer, the features that the classifier sees."""
    value = graph.outputs[0]
    while (node := value.producer()) is not None:
        source = node.inputs[0]
        if source is None:
            break
        if node.op_type in ("Gemm", "MatMul", "Conv"):
            return source
        if node.op_type == "Add":
            # A bias added behind a MatMul.
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


def use_batch_statistics(graph: ir.Graph) -> list[NormLayer]:
    """Mix the batch's statistics with the running ones, scale and shift from `affine`, in place.

    Per channel over (B, H, W), biased variance, and w = `source_weight` of the running statistics
    (Schneider et al., NeurIPS 2020, equation 3; w = 0 is BatchNorm in training mode, w = 1 the
    deployed network):

        c = x - mean(x)        d = w (mean(x) - running_mean)
        v = mean(c c) + w (running_var - mean(c c))
        y = (c + d) / sqrt(v + eps) * scale + shift

    Two passes, because E[x^2] - E[x]^2 cancels; d costs none, it joins the shift. `centred` c,
    `offset` d and `inv_std` carry the names that the backward graph expects.
    """
    layers = norm_layers(graph)
    total = sum(2 * layer.channels for layer in layers)
    affine = graph_value("affine", [total], ir.DataType.FLOAT)
    weight = graph_value("source_weight", [1], ir.DataType.FLOAT)
    head = Builder("affine_")
    sizes = [layer.channels for layer in layers for _ in range(2)]
    pieces = head.multi("Split", (affine, head.ints(*sizes)), len(sizes), axis=0)
    for index, layer in enumerate(layers):
        node = layer.node
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        dims = static_shape(x)
        ones = [1] * (len(dims) - 1)
        axes = [0, *range(2, len(dims) + 1)]
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        op = Builder(f"norm{index}_")
        channel = op.ints(1, layer.channels, *ones)
        running_mean, running_var = (
            op.constant(float_array(node.inputs[k]).reshape(1, -1, *ones)) for k in (3, 4)
        )
        mean = op.ReduceMean(x, op.ints(*axes), keepdims=1)
        centred = op.Sub(x, mean)
        offset = op.Mul(op.Sub(mean, running_mean), weight)
        batch_var = op.ReduceMean(op.Mul(centred, centred), op.ints(*axes), keepdims=1)
        variance = op.Add(batch_var, op.Mul(op.Sub(running_var, batch_var), weight))
        inv_std = op.Reciprocal(op.Sqrt(op.Add(variance, op.constant(epsilon))))
        slope = op.Mul(op.Reshape(pieces[2 * index], channel), inv_std)
        shift = op.Add(op.Reshape(pieces[2 * index + 1], channel), op.Mul(offset, slope))
        output = op.Add(op.Mul(centred, slope), shift)
        centred.name, centred.shape, centred.type = layer.centred, x.shape, x.type
        for value, name in ((offset, layer.offset_name), (inv_std, layer.inv_std)):
            value.name = name
            value.shape, value.type = ir.Shape([1, layer.channels, *ones]), x.type
        output.shape, output.type = y.shape, y.type
        for constant in op.constants:
            graph.register_initializer(constant)
        graph.insert_before(node, op.nodes)
        y_name = y.name
        y.replace_all_uses_with(output, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        output.name = y_name
    graph.inputs.extend((affine, weight))
    _prepend(graph, head)
    return layers


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
    for constant in op.constants:
        graph.register_initializer(constant)
    graph.extend(op.nodes)
    graph.outputs.append(flat)
    graph.outputs.extend(values[name] for name in residuals)


def _prepend(graph: ir.Graph, op: Builder) -> None:
    for constant in op.constants:
        graph.register_initializer(constant)
    first = graph.node(0)
    graph.insert_before(first, op.nodes)
    graph.opset_imports[""] = OPSET
