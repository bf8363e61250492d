"""The input and the output of a classifier: one batch of RGB squares, one batch of logits."""

from __future__ import annotations

import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.normalisation import BATCH


def fix_interface(
    graph: ir.Graph, name: str, image_size: int | None, head: str | None
) -> int | None:
    """Keep one output, name and free the input; return the batch size it was fixed to, if any.

    Args:
        graph: changed in place.
        name: the model's, for error messages.
        image_size: side of the input where the graph leaves it open, in pixels.
        head: name of the output to keep; None where there is one.

    Raises:
        EdgewfError: several inputs or heads to choose from, an input that is no batch of RGB
            images, or a contradiction between the graph and an argument.
    """
    if len(graph.inputs) != 1:
        raise EdgewfError(
            f"{name}: the model has {len(graph.inputs)} inputs "
            f"({', '.join(_described(v) for v in graph.inputs)}); edgewf feeds one batch of "
            "images: re-export the model with the others fixed"
        )
    _keep_head(graph, name, head)
    images = graph.inputs[0]
    if images.dtype != ir.DataType.FLOAT or images.shape is None or len(images.shape) != 4:
        raise EdgewfError(
            f"{name}: input {images.name!r} is {images.dtype} {images.shape}, expected float32 "
            "[batch, 3, height, width]"
        )
    batch, channels, height, width = images.shape
    if channels != 3:
        raise EdgewfError(
            f"{name}: input {images.name!r} has the shape {images.shape}; one axis must be the "
            "3 RGB channels, the second or the last"
        )
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise EdgewfError(
            f"{name}: input {images.name!r} is {height} x {width} pixels; edgewf feeds squares: "
            "re-export the model with a square input"
        )
    size = next((x for x in (height, width, image_size) if isinstance(x, int)), None)
    if size is None:
        raise EdgewfError(f"{name}: the input's height and width are open: give --image-size S")
    if image_size not in (None, size):
        raise EdgewfError(
            f"{name}: the graph is fixed to {size} pixels, not --image-size {image_size}: "
            "leave the option out, or re-export the model with that size"
        )
    images.shape = ir.Shape([BATCH, 3, size, size])
    images.name = "images"
    output = graph.outputs[0]
    if output.shape is not None and len(output.shape) == 2:
        output.shape = ir.Shape([BATCH, output.shape[1]])
    return batch if isinstance(batch, int) else None


def _keep_head(graph: ir.Graph, name: str, head: str | None) -> None:
    known = {str(v.name): v for v in graph.outputs}
    described = ", ".join(_described(v) for v in graph.outputs)
    if head is not None and head not in known:
        raise EdgewfError(f"{name}: no output {head!r}; --head takes one of {described}")
    if head is None and len(known) != 1:
        raise EdgewfError(
            f"{name}: the model has {len(graph.outputs)} outputs ({described}); edgewf adapts on "
            "one batch of logits: choose the main one with --head NAME"
        )
    if head is not None:
        graph.outputs[:] = [known[head]]


def _described(value: ir.Value) -> str:
    shape = "" if value.shape is None else f" {value.shape}"
    return f"{value.name}{shape}"


def check_classifier(graph: ir.Graph, name: str) -> int:
    """Return the number of classes.

    Raises:
        EdgewfError: the output is not [batch, classes], or the graph is fixed to one batch size.
    """
    logits = graph.outputs[0]
    shape = logits.shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 2:
        raise EdgewfError(
            f"{name}: output {logits.name!r} has the shape {shape}; expected [batch, classes] "
            f"with at least 2 classes: edgewf monitors classifiers{_guess(shape)}"
        )
    node = logits.producer()
    for x in node.inputs if node is not None else ():
        if x is None or x.const_value is not None or x.shape is None:
            continue
        if isinstance(x.shape[0], int):
            raise EdgewfError(
                f"{name}: the graph is fixed to batches of {x.shape[0]} (at {x.name!r}): "
                "re-export the model with a dynamic batch axis"
            )
    return shape[1]


def _guess(shape: ir.Shape | None) -> str:
    """Say what such an output looks like."""
    if shape is not None and len(shape) == 4:
        return ", and this looks like a segmentation or a feature map"
    if shape is not None and len(shape) == 3:
        return ", and this looks like a detector or a sequence"
    return ""
