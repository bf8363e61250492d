"""Channels-last graphs, as TensorFlow's exporters write them, with the channels first."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from edgewf.errors import EdgewfError

_TO_LAST = (0, 2, 3, 1)
_TO_FIRST = (0, 3, 1, 2)

# What must not happen on the way, by the names that ONNX Runtime gives its rewrites.
_FOLDS_BATCH_NORM = ["ConvBNFusion", "MatMul_BatchNormalization_Fusion"]


def channels_first(model: ir.Model, name: str) -> ir.Model:
    """Return the model with an input [batch, 3, H, W] and no transpositions around its layers.

    ONNX convolutions want the channels first, so exporters of channels-last models transpose
    before and after each. ONNX Runtime moves such pairs together until they cancel.

    Args:
        model: as read from a file.
        name: for error messages.

    Raises:
        EdgewfError: ONNX Runtime cannot load the graph.
    """
    last = _is_channels_last(model.graph)
    if last:
        _feed_channels_first(model.graph)
    if not last and not any(_permutation(node) in (_TO_LAST, _TO_FIRST) for node in model.graph):
        return model
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options.optimized_model_filepath = os.fspath(path)
        try:
            onnxruntime.InferenceSession(
                ir.to_proto(model).SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_FOLDS_BATCH_NORM,
            )
        except Exception as error:  # its exceptions share no base class
            reason = str(error).strip().partition("\n")[0]
            raise EdgewfError(
                f"{name}: ONNX Runtime cannot load this channels-last graph ({reason}); "
                "re-export the model with the channels first"
            ) from error
        return ir.from_proto(ir.to_proto(ir.external_data.load_to_model(ir.load(path))))


def _is_channels_last(graph: ir.Graph) -> bool:
    shape = graph.inputs[0].shape if len(graph.inputs) == 1 else None
    return shape is not None and len(shape) == 4 and shape[3] == 3 and shape[1] != 3


def _feed_channels_first(graph: ir.Graph) -> None:
    """Let the input be [batch, 3, H, W], and transpose it for those who read it."""
    images = graph.inputs[0]
    assert images.shape is not None
    node = ir.node("Transpose", [images], attributes={"perm": _TO_LAST}, name="channels_last")
    (last,) = node.outputs
    last.name, last.type, last.shape = "channels_last", images.type, images.shape
    for reader, index in list(images.uses()):
        if reader is not node:
            reader.replace_input_with(index, last)
    batch, height, width, channels = images.shape
    images.shape = ir.Shape([batch, channels, height, width])
    graph.insert_before(graph[0], [node])


def _permutation(node: ir.Node) -> tuple[int, ...] | None:
    permutation = node.attributes.get_ints("perm") if node.op_type == "Transpose" else None
    return None if permutation is None else tuple(permutation)
