"""Simpler forms of what exporters write, each bypassed where it is seen."""

from __future__ import annotations

import math
import string

import numpy as np
import onnx_ir as ir

from edgewf.export.builder import Builder, initializer

# They broadcast by themselves what an Expand before them spells out.
_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div"})


def drop_expansions(graph: ir.Graph) -> None:
    """Bypass Expand where every reader broadcasts anyway against a value of the full shape."""
    for node in list(graph):
        if node.op_type != "Expand":
            continue
        source, whole = node.inputs[0], node.outputs[0]
        assert source is not None
        readers = list(whole.uses())
        if not readers or not all(_broadcasts(reader.node, whole) for reader in readers):
            continue
        whole.replace_all_uses_with(source)
        graph.remove(node, safe=True)


def _broadcasts(node: ir.Node, expanded: ir.Value) -> bool:
    if node.op_type not in _BROADCASTING or expanded.shape is None:
        return False
    others = [x for x in node.inputs if x is not expanded]
    if len(others) != 1 or others[0] is None or others[0].shape is None:
        return False
    # The batch has a name of its own in each value that inference could not follow.
    same = list(others[0].shape)[1:] == list(expanded.shape)[1:]
    return same and len(others[0].shape) > 1 and others[0].const_value is None


def plain_einsums(graph: ir.Graph) -> None:
    """Name the axes of Einsum a, b, c, ...: TensorRT takes no capital letters."""
    for node in graph:
        equation = node.attributes.get_string("equation") if node.op_type == "Einsum" else None
        if equation is None or equation == equation.lower():
            continue
        letters = dict.fromkeys(x for x in equation if x.isalpha())
        names = dict(zip(letters, string.ascii_lowercase, strict=False))
        if len(letters) <= len(names):
            plain = "".join(names.get(x, x) for x in equation)
            node.attributes["equation"] = ir.AttrString("equation", plain)


def drop_whole_scatters(graph: ir.Graph) -> None:
    """Bypass ScatterND that writes every image anew, as `y += x` on the view `y = z[:, :n]` does.

    The exporter then scatters along Range(0, batch, 1).
    """
    for node in list(graph):
        if node.op_type != "ScatterND" or node.attributes.get_string("reduction") not in (
            None,
            "none",
        ):
            continue
        data, indices, updates = node.inputs
        assert data is not None
        assert updates is not None
        if updates.shape is None or data.shape is None or not _is_all_images(indices, data):
            continue
        if list(updates.shape)[1:] == list(data.shape)[1:]:
            node.outputs[0].replace_all_uses_with(updates)
            graph.remove(node, safe=True)


def _is_all_images(indices: ir.Value | None, data: ir.Value) -> bool:
    """Unsqueeze(Range(0, Shape(data)[0], 1), -1)"""
    unsqueeze = _producer(indices, "Unsqueeze")
    span = _producer(unsqueeze.inputs[0], "Range") if unsqueeze is not None else None
    if span is None:
        return False
    start, stop, step = span.inputs
    gather = _producer(stop, "Gather")
    shape = _producer(gather.inputs[0], "Shape") if gather is not None else None
    return (
        gather is not None
        and shape is not None
        and shape.inputs[0] is data
        and (_number(start), _number(step), _number(gather.inputs[1])) == (0, 1, 0)
    )


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def _number(value: ir.Value | None) -> int | None:
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return int(value.const_value.numpy().reshape(-1)[0])


def slice_partial_splits(graph: ir.Graph) -> None:
    """Write a Split with unread outputs as Slices, whose gradients need only their own part."""
    for node in list(graph):
        if node.op_type != "Split" or all(y.uses() or y.is_graph_output() for y in node.outputs):
            continue
        source = node.inputs[0]
        assert source is not None
        assert source.shape is not None
        axis = node.attributes.get_int("axis", 0) % len(source.shape)
        op = Builder(f"{node.outputs[0].name}_")
        start = 0
        for y in node.outputs:
            assert y.shape is not None
            size = y.shape[axis]
            assert isinstance(size, int)
            if y.uses():
                part = op.Slice(source, op.ints(start), op.ints(start + size), op.ints(axis))
                part.shape, part.type = y.shape, y.type
                y.replace_all_uses_with(part)
            start += size
        op.insert(graph, before=node)
        graph.remove(node, safe=True)


def state_reshapes(graph: ir.Graph) -> None:
    """Write the shape that a Reshape computes as a constant where inference knows it.

    Only the first size may be open: the batch, or a multiple of it where attention keeps its heads
    there.
    """
    for node in graph:
        shape = node.inputs[1] if node.op_type == "Reshape" else None
        if shape is None or shape.const_value is not None or node.outputs[0].shape is None:
            continue
        _, *rest = node.outputs[0].shape
        if all(isinstance(size, int) and size > 0 for size in rest):
            value = initializer(f"{node.outputs[0].name}.shape", np.asarray([-1, *rest], np.int64))
            graph.register_initializer(value)
            node.replace_input_with(1, value)


def scale_resizes(graph: ir.Graph) -> None:
    """Give Resize constant scales where it computes the size from the shape of another value."""
    for node in graph:
        sizes = node.inputs[3] if node.op_type == "Resize" and len(node.inputs) > 3 else None
        source, target = node.inputs[0], node.outputs[0]
        if sizes is None or source is None or source.shape is None or target.shape is None:
            continue
        pairs = list(zip(list(source.shape)[1:], list(target.shape)[1:], strict=True))
        if not all(isinstance(size, int) for pair in pairs for size in pair):
            continue
        scales = [1.0, *(_scale(int(a), int(b)) for a, b in pairs)]  # type: ignore[arg-type]
        value = initializer(f"{target.name}.scales", np.asarray(scales, np.float32))
        graph.register_initializer(value)
        node.resize_inputs(3)
        node.replace_input_with(2, value)


def _scale(size: int, out: int) -> float:
    """Return out / size, rounded so that its exact product with `size` is not below `out`."""
    scale = np.float32(out / size)
    if math.floor(size * float(scale)) < out:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)
