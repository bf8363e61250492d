"""Gradients of padding and resizing: linear maps of rows and columns, so their transposes.

Row i of a map's matrix says which input pixels the output pixel i mixes. The matrix of a Resize
comes from ONNX's reference implementation run on the unit vectors, whatever its mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgewf.export.builder import OPSET, Builder

if TYPE_CHECKING:
    from edgewf.export.gradients import Place


def pad(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Crop what was padded; negative pads cropped, and zeros come back."""
    mode = n.attribute("mode", "constant")
    axes = n.constant(3)
    pads = [int(p) for p in np.asarray(n.constant(1))]
    if mode == "constant":
        inputs = [] if axes is None else [None, op.ints(*axes.tolist())]
        return op.Pad(g, op.ints(*(-p for p in pads)), *inputs)
    named = range(len(pads) // 2) if axes is None else [int(a) for a in axes]
    for i, axis in enumerate(named):
        before, after = pads[i], pads[i + len(pads) // 2]
        axis %= len(n.shape(0)) + 1
        if (before, after) == (0, 0):
            continue
        if axis == 0 or min(before, after) < 0:
            raise NotImplementedError(f"{mode} padding of the batch or by negative amounts")
        size = n.shape(0)[axis - 1]
        source = np.pad(np.arange(size), (before, after), mode=mode)  # both say reflect, edge
        g = _transposed_map(op, g, np.eye(size, dtype=np.float32)[source], axis, n)
    return g


def resize(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Spread each output pixel over the input pixels it was interpolated from, axis by axis.

    Enlarging by whole factors with the nearest pixel sums blocks, which is faster.
    """
    attributes = {
        name: n.attribute(name)
        for name in (
            "coordinate_transformation_mode",
            "cubic_coeff_a",
            "exclude_outside",
            "mode",
            "nearest_mode",
        )
        if n.attribute(name) is not None
    }
    if n.attribute("antialias", 0) or n.attribute("axes") is not None:
        raise NotImplementedError("antialiasing or named axes")
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NotImplementedError("crop and resize")
    scales = n.constant(2)
    channels, *spatial = n.shape(0)
    if n.y_shape[0] != channels:
        raise NotImplementedError("resizing along the channels")
    maps: list[NDArray[np.float32]] = []
    for a, size in enumerate(spatial):
        out = n.y_shape[a + 1]
        scale = out / size if scales is None or not scales.size else float(scales[a + 2])
        maps.append(_resize_matrix(size, out, scale, attributes))
    blocks = [out // size for out, size in zip(n.y_shape[1:], spatial, strict=True)]
    if len(spatial) == 2 and all(
        np.array_equal(m, np.repeat(np.eye(size, dtype=np.float32), block, axis=0))
        for m, size, block in zip(maps, spatial, blocks, strict=True)
    ):
        mean = op.AveragePool(g, kernel_shape=blocks, strides=blocks)
        return op.Mul(mean, op.constant(float(np.prod(blocks))))
    for a, matrix in enumerate(maps):
        if spatial[a] != n.y_shape[a + 1]:
            g = _transposed_map(op, g, matrix, a + 2, n)
    return g


def _resize_matrix(
    size: int, out: int, scale: float, attributes: dict[str, Any]
) -> NDArray[np.float32]:
    """Return float32 [out, size]."""
    node = onnx.helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    declared = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in ("x", "scales", "y")
    ]
    graph = onnx.helper.make_graph([node], "resize", declared[:2], declared[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    units = np.eye(size, dtype=np.float32)[:, None]  # one "image" a unit vector
    scales = np.array([1, 1, scale], np.float32)
    (result,) = ReferenceEvaluator(model).run(None, {"x": units, "scales": scales})
    matrix: NDArray[np.float32] = np.asarray(result, np.float32)[:, 0].T
    if matrix.shape != (out, size):
        raise NotImplementedError(f"a scale of {scale} from {size} to {out} pixels")
    return matrix


def _transposed_map(
    op: Builder, g: ir.Value, matrix: NDArray[np.float32], axis: int, n: Place
) -> ir.Value:
    """Multiply `g` along `axis` by the transpose of `matrix` [out, in]."""
    rank = len(n.y_shape) + 1
    if axis == rank - 1:
        return op.MatMul(g, op.constant(matrix))
    if axis == rank - 2:
        return op.MatMul(op.constant(matrix.T), g)
    perm = [a for a in range(rank) if a != axis] + [axis]
    last = op.MatMul(op.Transpose(g, perm=perm), op.constant(matrix))
    return op.Transpose(last, perm=[perm.index(a) for a in range(rank)])
