"""Gradients of average and maximum pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgewf.export.builder import Builder
from edgewf.export.convolution import Window, window_geometry

if TYPE_CHECKING:
    from edgewf.export.gradients import Place


def _geometry(n: Place) -> Window:
    """Refuse ceil_mode's windows beyond the input: ONNX and PyTorch disagree on their number."""
    w = window_geometry(n)
    if len(w.kernel) != 2:
        raise NotImplementedError(f"{len(w.kernel)}-dimensional windows")
    for a, size in enumerate(n.shape(0)[1:]):
        if (w.output[a] - 1) * w.strides[a] >= size + w.pads[a]:
            raise NotImplementedError("pooling windows that start beyond the input")
    return w


def average_pool(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Each output pixel hands an equal part to every input pixel that it averaged."""
    w = _geometry(n)
    channels, *spatial = n.shape(0)
    if n.attribute("count_include_pad", 0):
        # A window hanging over the padded input's end (ceil_mode) divides by its size inside it.
        rows, columns = (w.counts(a, size, padded=True) for a, size in enumerate(spatial))
    else:
        rows, columns = (w.counts(a, size, padded=False) for a, size in enumerate(spatial))
    share = (1 / np.outer(rows, columns)).astype(np.float32)[None, None]
    ones = np.ones((channels, 1, *w.kernel), np.float32)
    if (share == share.flat[0]).all():
        ones *= share.flat[0]
    else:
        g = op.Mul(g, op.constant(share))
    return op.ConvTranspose(g, op.constant(ones), group=channels, **w.transposed(spatial))


def max_pool(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Hand the gradient to the first maximum of each window, in row-major order as PyTorch does.

    Pixels that a stride brings to the same place form a phase of the input, in which a window
    position is a contiguous view: one position after the other takes what its predecessors left.
    (MaxPool's indices output would be shorter, but TensorRT's parser refuses it.) Measured on
    ONNX Runtime 1.32 CPU, 1 thread, [16, 64, 112, 112], 3x3, stride 2: 74 ms; with strided views
    and one-hot transposed convolutions 167 ms. SpaceToDepth and DepthToSpace keep channels last
    in OpenVINO, which has no fast way to cut and join five dimensions.
    """
    w = _geometry(n)
    (top, left), (height, width) = w.starts, n.shape(0)[1:]
    reach = [
        max((o - 1) * s + (k - 1) * d + 1, size + before)
        for o, s, k, d, size, before in zip(
            w.output, w.strides, w.kernel, w.dilations, (height, width), (top, left), strict=True
        )
    ]
    grid = [-(-length // s) for length, s in zip(reach, w.strides, strict=True)]
    rows, columns = (length * s for length, s in zip(grid, w.strides, strict=True))
    pads = op.ints(0, 0, top, left, 0, 0, rows - top - height, columns - left - width)
    lowest = op.constant(float(np.finfo(np.float32).min))
    phases = _phases(op, op.Pad(n.x(0), pads, lowest), n.shape(0)[0], grid, w.strides)

    parts: list[list[ir.Value | None]] = [[None] * w.strides[1] for _ in range(w.strides[0])]
    last = (w.kernel[0] - 1, w.kernel[1] - 1)
    for i, j in np.ndindex(*w.kernel):
        (down, row), (right, column) = (
            divmod(p * d, s) for p, d, s in zip((i, j), w.dilations, w.strides, strict=True)
        )
        part = g
        if (i, j) != last:
            start, stop = (down, right), (down + w.output[0], right + w.output[1])
            view = op.Slice(phases[row][column], op.ints(*start), op.ints(*stop), op.ints(2, 3))
            part = op.Mul(g, op.Cast(op.Equal(view, n.y), to=ir.DataType.FLOAT.value))
            g = op.Sub(g, part)
        after = (grid[0] - w.output[0] - down, grid[1] - w.output[1] - right)
        placed = op.Pad(part, op.ints(0, 0, down, right, 0, 0, *after))
        known = parts[row][column]
        parts[row][column] = placed if known is None else op.Add(known, placed)
    # A stride beyond the window leaves phases that no window sees.
    zero = op.Mul(_first(parts), op.constant(0.0))
    whole = _interleave(
        op, [[zero if x is None else x for x in line] for line in parts], n.shape(0)[0], grid
    )
    end = op.ints(top + height, left + width)
    return op.Slice(whole, op.ints(top, left), end, op.ints(2, 3))


def _first(parts: list[list[ir.Value | None]]) -> ir.Value:
    return next(x for line in parts for x in line if x is not None)


def _phases(
    op: Builder, x: ir.Value, channels: int, grid: list[int], strides: tuple[int, ...]
) -> list[list[ir.Value]]:
    """Cut [B, C, H s, W t] into s x t values [B, C, H, W] of every s-th row and t-th column."""
    (height, width), (s, t) = grid, strides
    if s == t:
        phases = _split(op, op.SpaceToDepth(x, blocksize=s) if s > 1 else x, s * s, 1)
        return [phases[s * i : s * (i + 1)] for i in range(s)]
    shape = op.ints(-1, channels, height, width)
    rows = _split(op, op.Reshape(x, op.ints(-1, channels, height, s, width * t)), s, 3)
    lines = [op.Reshape(row, op.ints(-1, channels, height, width, t)) for row in rows]
    return [[op.Reshape(p, shape) for p in _split(op, line, t, 4)] for line in lines]


def _interleave(
    op: Builder, phases: list[list[ir.Value]], channels: int, grid: list[int]
) -> ir.Value:
    """Undo `_phases`."""
    (height, width), s, t = grid, len(phases), len(phases[0])
    if s == t:
        stack = [p for line in phases for p in line]
        return op.DepthToSpace(op.Concat(*stack, axis=1), blocksize=s) if s > 1 else stack[0]
    row = op.ints(-1, channels, height, 1, width * t)
    lines = [
        op.Reshape(op.Concat(*(op.Unsqueeze(p, op.ints(4)) for p in line), axis=4), row)
        for line in phases
    ]
    whole = op.Concat(*lines, axis=3)
    return op.Reshape(whole, op.ints(-1, channels, height * s, width * t))


def _split(op: Builder, x: ir.Value, pieces: int, axis: int) -> list[ir.Value]:
    if pieces == 1:
        return [x]
    return op.multi("Split", (x,), pieces, axis=axis, num_outputs=pieces)
