"""Gradients of ONNX operators as a flat table: one vector-Jacobian product an input.

A rule takes `(op, g, n)`: a builder for the backward graph, the gradient of the node's output,
and the node's place in the forward graph (`n.y` and `n.x(i)` are its values as the backward graph
sees them, `n.shape(i)` the static shape of input i without the batch). It returns the gradient of
one input. Weights are frozen, so only inputs that carry activations have rules; BatchNormalization
alone also has one for its scale and shift, kept in `n.affine_grads`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from edgewf.export.builder import Builder
from edgewf.export.convolution import Window, conv_input_gradient, window_geometry


@dataclass(frozen=True)
class Statistics:
    """What a BatchNorm layer's gradient needs, as values of the backward graph.

    Attributes:
        centred: [B, C, ...], x minus the batch's mean.
        offset: [1, C, ...], what to add to `centred` for x minus the mean in use.
        inv_std: [1, C, ...], 1/sqrt(var + eps) of the variance in use.
        scale: [C].
        count: scalar, values a channel.
        batch_weight: [1], weight of the batch's statistics in those in use.
    """

    centred: ir.Value
    offset: ir.Value
    inv_std: ir.Value
    scale: ir.Value
    count: ir.Value
    batch_weight: ir.Value


class Place(Protocol):
    """A node of the forward graph as its gradient rule sees it."""

    affine_grads: list[ir.Value]

    @property
    def y(self) -> ir.Value: ...
    def x(self, i: int) -> ir.Value: ...
    def shape(self, i: int) -> tuple[int, ...]: ...
    @property
    def y_shape(self) -> tuple[int, ...]: ...
    def is_active(self, i: int) -> bool: ...
    def attribute(self, name: str, default: Any = None) -> Any: ...
    def constant(self, i: int) -> np.ndarray[Any, Any] | None: ...
    def statistics(self) -> Statistics: ...


Rule = Callable[[Builder, ir.Value, Place], ir.Value]
RULES: dict[str, dict[int, Rule]] = {}


def defvjp(op_type: str, *rules: Rule, inputs: tuple[int, ...] | None = None) -> None:
    """Enter the rules of `op_type` for its first inputs, or for those named in `inputs`."""
    RULES[op_type] = dict(zip(inputs or range(len(rules)), rules, strict=True))


# Elementwise ------------------------------------------------------------------------------------
# Masks are steep HardSigmoids. Measured on ONNX Runtime 1.32 CPU, 2 cores, [16, 96, 112, 112]:
# HardSigmoid 11 ms, as fast as Relu; Sign 39 ms; Where(Greater) is slower still.


def _positive(op: Builder, x: ir.Value) -> ir.Value:
    """1 where x > 0, else 0; x may reach 2^27 before the product overflows, to infinity and 1."""
    return op.HardSigmoid(x, alpha=2.0**100, beta=0.0)


def _clip(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """1 strictly inside (low, high), as PyTorch's hardtanh; y reaches both bounds exactly."""
    inside: list[ir.Value] = []
    low, high = n.constant(1), n.constant(2)
    if low is not None:
        inside.append(n.y if float(low) == 0.0 else op.Sub(n.y, op.constant(low)))
    if high is not None:
        inside.append(op.Sub(op.constant(high), n.y))
    if not inside:
        return g
    return op.Mul(g, _positive(op, inside[0] if len(inside) == 1 else op.Mul(*inside)))


def _hard_sigmoid(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    one_minus = op.Sub(op.constant(1.0), n.y)
    slope = op.constant(n.attribute("alpha", 0.2))
    return op.Mul(op.Mul(g, slope), _positive(op, op.Mul(n.y, one_minus)))


def _hard_swish(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """x max(0, min(1, x/6 + 1/2)): slope 0 below -3, 1 above 3, x/3 + 1/2 between."""
    x = n.x(0)
    ramp = op.Add(op.Mul(x, op.constant(1 / 3)), op.constant(0.5))
    gate = op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
    inside = _positive(op, op.Mul(gate, op.Sub(op.constant(1.0), gate)))
    # Outside the ramp the gate itself, 0 or 1, is the slope.
    return op.Mul(g, op.Add(op.Mul(inside, op.Sub(ramp, gate)), gate))


def _leaky_relu(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    alpha = n.attribute("alpha", 0.01)
    slope = op.Mul(_positive(op, n.x(0)), op.constant(1 - alpha))
    return op.Mul(g, op.Add(slope, op.constant(alpha)))


defvjp("Identity", lambda op, g, n: g)
defvjp("Dropout", lambda op, g, n: g)
defvjp("Neg", lambda op, g, n: op.Neg(g))
defvjp("Relu", lambda op, g, n: op.Mul(g, _positive(op, n.y)))
defvjp("LeakyRelu", _leaky_relu)
defvjp("Clip", _clip)
defvjp("Sigmoid", lambda op, g, n: op.Mul(g, op.Mul(n.y, op.Sub(op.constant(1.0), n.y))))
defvjp("HardSigmoid", _hard_sigmoid)
defvjp("HardSwish", _hard_swish)
defvjp("Tanh", lambda op, g, n: op.Mul(g, op.Sub(op.constant(1.0), op.Mul(n.y, n.y))))
defvjp("Exp", lambda op, g, n: op.Mul(g, n.y))
defvjp("Softplus", lambda op, g, n: op.Mul(g, op.Sigmoid(n.x(0))))


# Broadcasting arithmetic ------------------------------------------------------------------------


def _sum_to(op: Builder, g: ir.Value, n: Place, i: int) -> ir.Value:
    """Sum `g` over the axes along which input i was broadcast; the batch never is."""
    to, out = n.shape(i), n.y_shape
    padded = (1,) * (len(out) - len(to)) + to
    axes = [a + 1 for a, (small, big) in enumerate(zip(padded, out, strict=True)) if small != big]
    if axes:
        g = op.ReduceSum(g, op.ints(*axes), keepdims=1)
    return op.Reshape(g, op.ints(-1, *to)) if len(to) != len(out) else g


def _div_denominator(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    return _sum_to(op, op.Neg(op.Mul(g, op.Div(n.y, n.x(1)))), n, 1)


defvjp(
    "Add",
    lambda op, g, n: _sum_to(op, g, n, 0),
    lambda op, g, n: _sum_to(op, g, n, 1),
)
defvjp(
    "Sub",
    lambda op, g, n: _sum_to(op, g, n, 0),
    lambda op, g, n: _sum_to(op, op.Neg(g), n, 1),
)
defvjp(
    "Mul",
    lambda op, g, n: _sum_to(op, op.Mul(g, n.x(1)), n, 0),
    lambda op, g, n: _sum_to(op, op.Mul(g, n.x(0)), n, 1),
)
defvjp("Div", lambda op, g, n: _sum_to(op, op.Div(g, n.x(1)), n, 0), _div_denominator)


# Shape ------------------------------------------------------------------------------------------


def _reshape_back(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    return op.Reshape(g, op.ints(-1, *n.shape(0)))


def _transpose(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    rank = len(n.shape(0)) + 1
    perm = n.attribute("perm", list(reversed(range(rank))))
    return op.Transpose(g, perm=[perm.index(i) for i in range(rank)])


def _concat(i: int) -> Rule:
    def rule(op: Builder, g: ir.Value, n: Place) -> ir.Value:
        rank = len(n.y_shape) + 1
        axis = n.attribute("axis") % rank
        if axis == 0:
            raise NotImplementedError("a concatenation along the batch")
        # From the end, because only activations lack the batch axis in their shape.
        start = sum(n.shape(j)[axis - rank] for j in range(i))
        stop = start + n.shape(i)[axis - rank]
        return op.Slice(g, op.ints(start), op.ints(stop), op.ints(axis))

    return rule


def _pad(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Crop what was padded; negative pads cropped, and zeros come back."""
    mode = n.attribute("mode", "constant")
    if mode != "constant":
        raise NotImplementedError(f"{mode} padding")
    pads = np.asarray(n.constant(1)).tolist()
    axes = n.constant(3)
    inputs = [] if axes is None else [None, op.ints(*axes.tolist())]
    return op.Pad(g, op.ints(*(-p for p in pads)), *inputs)


def _slice(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Put the gradient back where the slice came from, zeros elsewhere.

    A step of s is undone by s - 1 zeros after every element: a transposed convolution would
    do too, but a pad in a folded view touches memory once.
    """
    starts, ends = (np.asarray(n.constant(i)).tolist() for i in (1, 2))
    axes_in, steps_in = n.constant(3), n.constant(4)
    axes = list(range(len(starts))) if axes_in is None else [int(a) for a in axes_in]
    steps = [1] * len(starts) if steps_in is None else [int(s) for s in steps_in]
    shape = [-1, *n.y_shape]
    before, after = [0] * len(shape), [0] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(shape)
        if axis == 0 and (start, step) == (0, 1) and end >= 2**31 - 1:
            continue
        if axis == 0 or step < 1:
            raise NotImplementedError("a slice of the batch or with a negative step")
        size = n.shape(0)[axis - 1]
        first, _, _ = slice(start, end, step).indices(size)
        kept = shape[axis]
        if step > 1:
            split = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
            zeros = [0] * (2 * len(split))
            zeros[len(split) + axis + 1] = step - 1
            g = op.Pad(op.Reshape(g, op.ints(*split)), op.ints(*zeros))
            shape[axis] = kept * step
            g = op.Reshape(g, op.ints(*shape))
        # May be negative: the last element's zeros can reach beyond the input's end.
        before[axis], after[axis] = first, size - first - shape[axis]
    return op.Pad(g, op.ints(*before, *after))


for _name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
    defvjp(_name, _reshape_back)
defvjp("Transpose", _transpose)
defvjp("Pad", _pad)
defvjp("Slice", _slice)
RULES["Concat"] = {i: _concat(i) for i in range(64)}


# Reductions and pooling -------------------------------------------------------------------------


def _spread(op: Builder, g: ir.Value, n: Place, axes: list[int], scale: float) -> ir.Value:
    """Scale `g` and repeat it along the reduced `axes` (all >= 1) of input 0."""
    kept = [1 if a + 1 in axes else size for a, size in enumerate(n.shape(0))]
    if scale != 1.0:
        g = op.Mul(g, op.constant(scale))
    if len(n.y_shape) != len(kept):
        g = op.Reshape(g, op.ints(-1, *kept))
    return op.Expand(g, op.ints(1, *n.shape(0)))


def _reduce(mean: bool) -> Rule:
    def rule(op: Builder, g: ir.Value, n: Place) -> ir.Value:
        given = n.constant(1)
        if given is None:
            raise NotImplementedError("a reduction over the batch")
        axes = [int(a) % (len(n.shape(0)) + 1) for a in given.reshape(-1)]
        if 0 in axes:
            raise NotImplementedError("a reduction over the batch")
        count = math.prod(n.shape(0)[a - 1] for a in axes)
        return _spread(op, g, n, axes, 1 / count if mean else 1.0)

    return rule


def _global_average_pool(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    _, *spatial = n.shape(0)
    return _spread(op, g, n, list(range(2, 2 + len(spatial))), 1 / math.prod(spatial))


def _pool_geometry(n: Place) -> Window:
    """Refuse ceil_mode's windows beyond the input: ONNX and PyTorch disagree on their number."""
    w = window_geometry(n)
    for a, size in enumerate(n.shape(0)[1:]):
        if (w.output[a] - 1) * w.strides[a] >= size + w.pads[a]:
            raise NotImplementedError("pooling windows that start beyond the input")
    return w


def _average_pool(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Each output pixel hands an equal part to every input pixel that it averaged."""
    w = _pool_geometry(n)
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


def _max_pool(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Hand the gradient to the first maximum of each window, in row-major order as PyTorch does.

    One shifted view of the input a window position says who attains the maximum; a transposed
    convolution with one-hot kernels writes the parts back. (MaxPool's indices output would be
    shorter, but TensorRT's parser refuses it.)
    """
    w = _pool_geometry(n)
    channels, *spatial = n.shape(0)
    positions = w.kernel[0] * w.kernel[1]
    lowest = float(np.finfo(np.float32).min)
    before, after = (
        w.pads[:2],
        [
            (w.output[a] - 1) * w.strides[a]
            + (w.kernel[a] - 1) * w.dilations[a]
            + 1
            - spatial[a]
            - w.pads[a]
            for a in range(2)
        ],
    )
    x = op.Pad(n.x(0), op.ints(0, 0, *before, 0, 0, *after), op.constant(lowest))
    free: ir.Value | None = None
    parts: list[ir.Value] = []
    for i in range(w.kernel[0]):
        for j in range(w.kernel[1]):
            start = (i * w.dilations[0], j * w.dilations[1])
            stop = [s + (o - 1) * t + 1 for s, o, t in zip(start, w.output, w.strides, strict=True)]
            view = op.Slice(x, op.ints(*start), op.ints(*stop), op.ints(2, 3), op.ints(*w.strides))
            hit = op.Cast(op.Equal(view, n.y), to=ir.DataType.FLOAT.value)
            if free is not None:
                hit = op.Mul(hit, free)
            rest = op.Sub(op.constant(1.0), hit)
            free = rest if free is None else op.Mul(free, rest)
            parts.append(op.Unsqueeze(op.Mul(g, hit), op.ints(2)))
    # [B, C, positions, H, W] -> channel c * positions + k holds position k of channel c.
    stacked = op.Concat(*parts, axis=2)
    stacked = op.Reshape(stacked, op.ints(-1, channels * positions, *w.output))
    one_hot = np.eye(positions, dtype=np.float32).reshape(positions, 1, *w.kernel)
    weight = op.constant(np.tile(one_hot, (channels, 1, 1, 1)))
    return op.ConvTranspose(stacked, weight, group=channels, **w.transposed(spatial))


defvjp("ReduceMean", _reduce(mean=True))
defvjp("ReduceSum", _reduce(mean=False))
defvjp("GlobalAveragePool", _global_average_pool)
defvjp("AveragePool", _average_pool)
defvjp("MaxPool", _max_pool)


# Linear maps ------------------------------------------------------------------------------------


def _gemm(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Y = alpha A B' + C with A [B, D] and frozen B."""
    if n.attribute("transA", 0):
        raise NotImplementedError("a transposed batch")
    return op.Gemm(g, n.x(1), alpha=n.attribute("alpha", 1.0), transB=1 - n.attribute("transB", 0))


def _matmul(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    weight = n.constant(1)
    if weight is None or weight.ndim != 2:
        raise NotImplementedError("a product with a stack of matrices")
    return op.MatMul(g, op.Transpose(n.x(1), perm=[1, 0]))


defvjp("Conv", conv_input_gradient)
defvjp("Gemm", _gemm)
defvjp("MatMul", _matmul)


# Batch normalisation (Ioffe & Szegedy, ICML 2015) with mixed statistics --------------------------


def _batch_norm(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """With c, d, r = inv_std as in `forward.use_batch_statistics`, b = 1 - w the batch's weight,
    and avg over the M values (B, H, W) of a channel:

        q = avg(g (c + d)) = avg(g c) + d avg(g)
        d scale = M r q        d shift = M avg(g)
        d x = scale r (g - b avg(g) - c b r^2 q)

    Centring first keeps the averages free of cancellation.
    """
    s = n.statistics()
    axes = op.ints(*(a for a in range(len(n.shape(0)) + 1) if a != 1))
    flat = op.ints(-1)
    avg_g = op.ReduceMean(g, axes, keepdims=1)
    avg_gc = op.ReduceMean(op.Mul(g, s.centred), axes, keepdims=1)
    slope = op.Mul(op.Add(avg_gc, op.Mul(s.offset, avg_g)), s.inv_std)
    n.affine_grads.append(op.Mul(op.Reshape(slope, flat), s.count))
    n.affine_grads.append(op.Mul(op.Reshape(avg_g, flat), s.count))
    if not n.is_active(0):
        return g  # Never used: nothing upstream trains.
    through_var = op.Mul(op.Mul(slope, s.inv_std), s.batch_weight)
    through_mean = op.Mul(avg_g, s.batch_weight)
    rest = op.Sub(op.Sub(g, op.Mul(s.centred, through_var)), through_mean)
    return op.Mul(rest, op.Mul(op.Reshape(s.scale, op.ints(*_per_channel(n))), s.inv_std))


def _per_channel(n: Place) -> tuple[int, ...]:
    return (1, -1, *(1,) * (len(n.shape(0)) - 1))


defvjp("BatchNormalization", _batch_norm)
