"""Sliding windows: their geometry, and the input gradient of a convolution with frozen weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgewf.export.builder import Builder


class WindowNode(Protocol):
    """What the geometry needs to know of a Conv or pooling node (a `Place` has it)."""

    def x(self, i: int) -> ir.Value: ...
    def shape(self, i: int) -> tuple[int, ...]: ...
    @property
    def y_shape(self) -> tuple[int, ...]: ...
    def attribute(self, name: str, default: Any = None) -> Any: ...


@dataclass(frozen=True)
class Window:
    """A sliding window, one value a spatial axis; `pads` holds all starts, then all ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Padding before the input."""
        return self.pads[: len(self.kernel)]

    def transposed(self, size: list[int]) -> dict[str, Any]:
        """Attributes of the ConvTranspose that maps the output grid back to `size`."""
        reach = [
            (o - 1) * s + (k - 1) * d + 1
            for o, s, k, d in zip(
                self.output, self.strides, self.kernel, self.dilations, strict=True
            )
        ]
        # What the windows reach beyond the input at the end is cut off, what they miss is zero.
        ends = [r - before - n for r, before, n in zip(reach, self.starts, size, strict=True)]
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [*self.starts, *(max(e, 0) for e in ends)],
            "output_padding": [max(-e, 0) for e in ends],
        }

    def counts(self, axis: int, size: int, *, padded: bool) -> NDArray[np.int64]:
        """How many elements each window averages along `axis`, with or without the padding."""
        before, after = self.pads[axis :: len(self.kernel)] if padded else (0, 0)
        first = np.arange(self.output[axis])[:, None] * self.strides[axis] - self.pads[axis]
        positions = first + np.arange(self.kernel[axis]) * self.dilations[axis]
        return np.asarray(((positions >= -before) & (positions < size + after)).sum(axis=1))


def window_geometry(n: WindowNode) -> Window:
    """Read the window of a Conv, MaxPool or AveragePool node; automatic padding made explicit."""
    spatial = n.shape(0)[1:]
    rank = len(spatial)
    kernel = n.attribute("kernel_shape") or list(n.shape(1))[2:]
    strides = n.attribute("strides", [1] * rank)
    dilations = n.attribute("dilations", [1] * rank)
    output = n.y_shape[1:]
    pads = list(n.attribute("pads", [0, 0] * rank))
    mode = n.attribute("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        for a in range(rank):
            reach = (output[a] - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1
            total = max(reach - spatial[a], 0)
            small, large = total // 2, total - total // 2
            pads[a], pads[a + rank] = (small, large) if mode == "SAME_UPPER" else (large, small)
    return Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(pads), tuple(output))


def conv_input_gradient(op: Builder, g: ir.Value, n: WindowNode) -> ir.Value:
    """Backpropagate through a convolution whose weights [Co, Ci/G, *kernel] do not train.

    Stride 1: a convolution with the flipped kernel and its channels transposed. Larger strides:
    ConvTranspose. Measured on ONNX Runtime 1.32 CPU, 2 cores, batch 16: at stride 1 the
    convolution takes 0.6 of ConvTranspose's time (3x3, 64 channels, 56x56), 0.25 depthwise; at
    stride 2 ConvTranspose takes 0.5 of a sub-pixel convolution's and 0.3 of zero insertion's.
    """
    w = window_geometry(n)
    group = n.attribute("group", 1)
    reach = [(k - 1) * d for k, d in zip(w.kernel, w.dilations, strict=True)]
    pads = [r - p for r, p in zip(reach * 2, w.pads, strict=True)]
    if max(w.strides) > 1 or min(pads) < 0:
        return op.ConvTranspose(g, n.x(1), group=group, **w.transposed(list(n.shape(0)[1:])))
    return op.Conv(
        g,
        _flipped(op, n.x(1), (n.y_shape[0], n.shape(0)[0]), w.kernel, group),
        kernel_shape=list(w.kernel),
        dilations=list(w.dilations),
        pads=pads,
        group=group,
    )


def _flipped(
    op: Builder, weight: ir.Value, channels: tuple[int, int], kernel: tuple[int, ...], group: int
) -> ir.Value:
    """[Co, Ci/G, *kernel] -> [Ci, Co/G, *kernel], the kernel's axes reversed.

    Written as nodes on the shared weight, which runtimes fold when they load the graph, so that
    the bundle stores every weight once.
    """
    out, into = channels[0] // group, channels[1] // group
    axes = range(2, 2 + len(kernel))
    if max(kernel) > 1:
        back = op.ints(*(-1 for _ in axes))
        lowest = op.ints(*(-(2**31) for _ in axes))
        weight = op.Slice(weight, back, lowest, op.ints(*axes), back)
    if out == into == 1:
        return weight
    if group == 1:
        return op.Transpose(weight, perm=[1, 0, *axes])
    weight = op.Reshape(weight, op.ints(group, out, into, *kernel))
    weight = op.Transpose(weight, perm=[0, 2, 1, *(a + 1 for a in axes)])
    return op.Reshape(weight, op.ints(group * into, out, *kernel))
