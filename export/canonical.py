"""Bring an ONNX classifier into the one form that differentiation and assembly expect.

Afterwards: operator set 18, float32, one input `images` [batch, 3, H, W], one output `logits`
[batch, K], every intermediate shape known but for the batch, weights and constants as
initializers, no node that computes a constant or nothing, and unfolded BatchNormalization layers.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript import version_converter
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule, max_min_rule, min_max_rule

from edgewf.export.builder import IR_VERSION, OPSET, initializer
from edgewf.export.interface import check_classifier, fix_interface
from edgewf.export.normalisation import BATCH
from edgewf.export.refusals import check_batch_norm, check_plain
from edgewf.export.rewrites import (
    drop_expansions,
    drop_whole_scatters,
    plain_einsums,
    scale_resizes,
    slice_partial_splits,
    state_reshapes,
)

_FOLD_LIMIT = 1 << 24  # bytes; beyond it a folded constant would only bloat the bundle


def canonicalize(
    model: ir.Model,
    name: str,
    image_size: int | None = None,
    *,
    head: str | None = None,
    unfold: str | None = None,
) -> ir.Model:
    """Return `model` in canonical form (changed in place).

    Args:
        model: a classifier read from a file or written by a source.
        name: for error messages.
        image_size: side of the input where the model leaves it open, in pixels.
        head: the output that holds the logits, where there are several.
        unfold: how to write the model again with its BatchNorm layers apart, for a source that
            may have folded them.

    Raises:
        EdgewfError: more than one input or output, a folded or missing BatchNorm, or an input
            that is no batch of RGB images.
    """
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    if model.graph.opset_imports.get("", OPSET) != OPSET:
        version_converter.convert_version(model, OPSET, fallback=True)
    passes.InlinePass()(model)
    graph = model.graph
    batch = fix_interface(graph, name, image_size, head)
    _fold(model)
    while _free_reshapes_of_batch(graph, batch):
        _fold(model)
    kinds = {node.op_type for node in graph}
    if "Pad" in kinds:
        rewrite(model, pattern_rewrite_rules=[fuse_pad_into_conv_rule])
    if kinds >= {"Max", "Min"}:
        rewrite(model, pattern_rewrite_rules=[max_min_rule, min_max_rule])
    _drop_softmax(graph)
    _drop_zero_biases(graph)
    _drop_whole_slices(graph)
    drop_whole_scatters(graph)
    drop_expansions(graph)
    scale_resizes(graph)
    state_reshapes(graph)
    plain_einsums(graph)
    _fold(model)
    slice_partial_splits(graph)
    _fold(model)
    passes.ClearMetadataAndDocStringPass()(model)
    check_plain(graph, name)
    classes = check_classifier(graph, name)
    check_batch_norm(graph, name, unfold)
    graph.outputs[0].name = "logits"
    graph.outputs[0].shape = ir.Shape([BATCH, classes])
    model.ir_version = IR_VERSION
    return model


def _fold(model: ir.Model) -> None:
    for value in [v for node in model.graph for v in node.outputs]:
        if not value.is_graph_output():
            # Sources declare shapes for the batch they traced; only inference knows the truth.
            value.shape = None
    passes.ShapeInferencePass()(model)
    fold_constants(
        model,
        onnx_shape_inference=True,
        input_size_limit=_FOLD_LIMIT,
        output_size_limit=_FOLD_LIMIT,
        should_fold=_is_small_constant,
    )
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.IdentityEliminationPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.ShapeInferencePass()(model)


def _is_small_constant(node: ir.Node) -> bool | None:
    """Fold also what the folder leaves alone by default, such as ConstantOfShape."""
    known = all(x is None or x.const_value is not None for x in node.inputs)
    return True if known and node.inputs else None


def _free_reshapes_of_batch(graph: ir.Graph, batch: int | None) -> int:
    """Put -1 where a Reshape spells out the batch size, and all other sizes; count them.

    `x.view(x.shape[0], -1)` becomes Reshape(x, Concat(Shape(x)[0], -1)), which hides a static
    shape from inference, and Reshape(x, [8, -1]) in a graph traced with a batch of 8.
    """
    count = 0
    for node in graph:
        rest = _sizes_behind_batch(node, batch)
        source = node.inputs[0] if rest is not None else None
        if rest is None or source is None or source.shape is None:
            continue
        sizes = [d for d in list(source.shape)[1:] if isinstance(d, int)]
        if len(sizes) < len(source.shape) - 1:
            continue
        dims = [sizes[i] if d == 0 else d for i, d in enumerate(rest)]
        total = math.prod(sizes)
        if -1 in dims:
            dims[dims.index(-1)] = total // -math.prod(dims)
        if math.prod(dims) != total:
            continue
        shape = initializer(f"{node.outputs[0].name}.shape", np.asarray([-1, *dims], np.int64))
        graph.register_initializer(shape)
        node.replace_input_with(1, shape)
        count += 1
    return count


def _sizes_behind_batch(node: ir.Node, batch: int | None) -> list[int] | None:
    """Return the constants that follow the batch size in the shape that a Reshape asks for."""
    shape = node.inputs[1] if node.op_type == "Reshape" else None
    if shape is None:
        return None
    if shape.const_value is not None:
        first, *rest = shape.const_value.numpy().tolist()
        return rest if first == batch else None
    concat = shape.producer()
    if concat is None or concat.op_type != "Concat" or not _is_batch(concat.inputs[0]):
        return None
    sizes = [None if x is None else x.const_value for x in concat.inputs[1:]]
    if any(size is None for size in sizes):
        return None
    return [int(d) for size in sizes if size is not None for d in size.numpy().reshape(-1)]


def _is_batch(value: ir.Value | None) -> bool:
    """Only the batch is symbolic, so what comes from a Shape without arithmetic is it."""
    passing = ("Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Cast")
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in passing:
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    return node is not None and node.op_type == "Shape"


def _drop_softmax(graph: ir.Graph) -> None:
    """A classifier that ends in softmax exports its logits."""
    node = graph.outputs[0].producer()
    if node is None or node.op_type not in ("Softmax", "LogSoftmax") or node.inputs[0] is None:
        return
    logits = node.inputs[0]
    logits.shape = graph.outputs[0].shape
    graph.outputs[0] = logits
    graph.remove(node, safe=True)


def _drop_zero_biases(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type != "Conv" or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        bias = node.inputs[2].const_value
        if bias is not None and not bias.numpy().any():
            node.replace_input_with(2, None)
            node.resize_inputs(2)


def _drop_whole_slices(graph: ir.Graph) -> None:
    """Bypass slices that take everything, as exporters write for the first axes of `x[:, ::2]`."""
    for node in list(graph):
        if node.op_type != "Slice" or node.outputs[0].is_graph_output():
            continue
        known = [x.const_value for x in node.inputs[1:] if x is not None]
        if any(v is None for v in known) or len(known) != len(node.inputs) - 1:
            continue
        starts, ends, *rest = [v.numpy().reshape(-1) for v in known if v is not None]
        axes = rest[0] if rest else np.arange(len(starts))
        steps = rest[1] if len(rest) > 1 else np.ones(len(starts), np.int64)
        source = node.inputs[0]
        assert source is not None
        assert source.shape is not None
        sizes = [source.shape[int(a)] for a in axes]
        if all(
            start == 0 and step == 1 and end >= (size if isinstance(size, int) else 2**31 - 1)
            for start, end, step, size in zip(starts, ends, steps, sizes, strict=True)
        ):
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
