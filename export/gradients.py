"""Gradients of ONNX operators as a flat table: one vector-Jacobian product an input.

A rule takes `(op, g, n)`: a builder for the backward graph, the gradient of the node's output,
and the node's place in the forward graph (`n.y` and `n.x(i)` are its values as the backward graph
sees them, `n.shape(i)` the static shape of input i without the batch, `n.others` the gradients of
further outputs, for operators in SEVERAL_OUTPUTS). It returns the gradient of one input. Weights
are frozen, so only inputs that carry activations have rules; BatchNormalization alone also has
one for its scale and shift, kept in `n.affine_grads`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from edgewf.export.builder import Builder
from edgewf.export.convolution import conv_input_gradient
from edgewf.export.pooling import average_pool, max_pool
from edgewf.export.resampling import pad, resize


@dataclass(frozen=True)
class Statistics:
    """What a BatchNorm layer's gradient needs, as values of the backward graph.

    All are [1, C, 1, ...] but for the last two.

    Attributes:
        batch_mean: of the layer's input.
        mean: the one in use, mixed from the batch's and the running mean.
        inv_std: 1/sqrt(var + eps) of the variance in use.
        slope, shift: the layer as y = slope x + shift.
        batch_weight: [1], weight of the batch's statistics in those in use.
        count: scalar, values a channel.
    """

    batch_mean: ir.Value
    mean: ir.Value
    inv_std: ir.Value
    slope: ir.Value
    shift: ir.Value
    batch_weight: ir.Value
    count: ir.Value


class Place(Protocol):
    """A node of the forward graph as its gradient rule sees it."""

    affine_grads: list[ir.Value]
    others: list[ir.Value]

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
# Their rules need a gradient for each output; other operators may have one output in use.
SEVERAL_OUTPUTS = frozenset({"Split"})


def defvjp(op_type: str, *rules: Rule, inputs: tuple[int, ...] | None = None) -> None:
    """Enter the rules of `op_type` for its first inputs, or for those named in `inputs`."""
    RULES[op_type] = dict(zip(inputs or range(len(rules)), rules, strict=True))


# Elementwise ------------------------------------------------------------------------------------
# Masks are steep HardSigmoids. Measured on ONNX Runtime 1.32 CPU, 2 cores, [16, 96, 112, 112]:
# HardSigmoid 11 ms, as fast as Relu; Sign 39 ms; Where(Greater) is slower still.


def _positive(op: Builder, x: ir.Value, sign: float = 1.0, offset: float = 0.0) -> ir.Value:
    """1 where sign x + offset > 0, else 0; x may reach 2^27 before the product overflows."""
    return op.HardSigmoid(x, alpha=sign * 2.0**100, beta=offset * 2.0**100)


def _clip(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """1 strictly inside (low, high), as PyTorch's hardtanh."""
    x, low, high = n.x(0), n.constant(1), n.constant(2)
    if low is not None and high is not None:
        middle, reach = (float(low) + float(high)) / 2, (float(high) - float(low)) / 2
        return op.Mul(g, _positive(op, op.Abs(op.Sub(x, op.constant(middle))), -1.0, reach))
    if low is not None:
        return op.Mul(g, _positive(op, x, offset=-float(low)))
    if high is not None:
        return op.Mul(g, _positive(op, x, -1.0, float(high)))
    return g


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


def _erf(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    bell = op.Exp(op.Neg(op.Mul(n.x(0), n.x(0))))
    return op.Mul(g, op.Mul(bell, op.constant(2 / math.sqrt(math.pi))))


def _pow(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    exponent = n.constant(1)
    if exponent is None or exponent.size != 1:
        raise NotImplementedError("exponents that differ")
    e = float(exponent.reshape(()))
    below = n.x(0) if e == 2.0 else op.Pow(n.x(0), op.constant(e - 1))
    return op.Mul(g, op.Mul(below, op.constant(e)))


defvjp("Identity", lambda op, g, n: g)
defvjp("Dropout", lambda op, g, n: g)
defvjp("Neg", lambda op, g, n: op.Neg(g))
defvjp("Relu", lambda op, g, n: op.Mul(g, _positive(op, n.x(0))))
defvjp("LeakyRelu", _leaky_relu)
defvjp("Clip", _clip)
defvjp("Sigmoid", lambda op, g, n: op.Mul(g, op.Mul(n.y, op.Sub(op.constant(1.0), n.y))))
defvjp("HardSigmoid", _hard_sigmoid)
defvjp("HardSwish", _hard_swish)
defvjp("Tanh", lambda op, g, n: op.Mul(g, op.Sub(op.constant(1.0), op.Mul(n.y, n.y))))
defvjp("Exp", lambda op, g, n: op.Mul(g, n.y))
defvjp("Erf", _erf)
defvjp("Sqrt", lambda op, g, n: op.Div(op.Mul(g, op.constant(0.5)), n.y))
defvjp("Pow", _pow)
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
defvjp("Expand", lambda op, g, n: _sum_to(op, g, n, 0))


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


def _depth_to_space(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    if n.attribute("mode", "DCR") == "DCR":
        return op.SpaceToDepth(g, blocksize=n.attribute("blocksize"))
    (channels, height, width), block = n.y_shape, n.attribute("blocksize")
    split = op.Reshape(g, op.ints(-1, channels, height // block, block, width // block, block))
    return _reshape_back(op, op.Transpose(split, perm=[0, 1, 3, 5, 2, 4]), n)


for _name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
    defvjp(_name, _reshape_back)
defvjp("Transpose", _transpose)
defvjp("Pad", pad)
defvjp("Slice", _slice)
defvjp("Split", lambda op, g, n: op.Concat(g, *n.others, axis=n.attribute("axis", 0)))
defvjp("DepthToSpace", _depth_to_space)
defvjp("Resize", resize)
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


def _reduced_axes(n: Place) -> list[int]:
    given = n.constant(1)
    axes = [] if given is None else [int(a) % (len(n.shape(0)) + 1) for a in given.reshape(-1)]
    if not axes or 0 in axes:
        raise NotImplementedError("a reduction over the batch")
    return axes


def _reduce(mean: bool) -> Rule:
    def rule(op: Builder, g: ir.Value, n: Place) -> ir.Value:
        axes = _reduced_axes(n)
        count = math.prod(n.shape(0)[a - 1] for a in axes)
        return _spread(op, g, n, axes, 1 / count if mean else 1.0)

    return rule


def _reduce_max(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Share the gradient among equal maxima, as PyTorch's amax does."""
    axes = _reduced_axes(n)
    kept = [1 if a + 1 in axes else size for a, size in enumerate(n.shape(0))]
    y, g = (op.Reshape(v, op.ints(-1, *kept)) for v in (n.y, g))
    hit = op.Cast(op.Equal(n.x(0), y), to=ir.DataType.FLOAT.value)
    return op.Mul(hit, op.Div(g, op.ReduceSum(hit, op.ints(*axes), keepdims=1)))


def _softmax(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    inner = op.ReduceSum(op.Mul(g, n.y), op.ints(n.attribute("axis", -1)), keepdims=1)
    return op.Mul(n.y, op.Sub(g, inner))


def _global_average_pool(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    _, *spatial = n.shape(0)
    return _spread(op, g, n, list(range(2, 2 + len(spatial))), 1 / math.prod(spatial))


defvjp("ReduceMean", _reduce(mean=True))
defvjp("ReduceSum", _reduce(mean=False))
defvjp("ReduceMax", _reduce_max)
defvjp("Softmax", _softmax)
defvjp("GlobalAveragePool", _global_average_pool)
defvjp("AveragePool", average_pool)
defvjp("MaxPool", max_pool)


# Linear maps ------------------------------------------------------------------------------------


def _gemm(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Y = alpha A B' + C with A [B, D] and frozen B."""
    if n.attribute("transA", 0):
        raise NotImplementedError("a transposed batch")
    return op.Gemm(g, n.x(1), alpha=n.attribute("alpha", 1.0), transB=1 - n.attribute("transB", 0))


def _transposed(op: Builder, x: ir.Value, rank: int) -> ir.Value:
    """Swap the last two axes."""
    return op.Transpose(x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _matmul_left(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Y = A B, matrices or stacks of them: dA = dY B'."""
    other = _transposed(op, n.x(1), len(n.shape(1)) + n.is_active(1))
    return _sum_stacks(op, op.MatMul(g, other), n, 0)


def _matmul_right(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """Y = A B, matrices or stacks of them: dB = A' dY."""
    other = _transposed(op, n.x(0), len(n.shape(0)) + n.is_active(0))
    return _sum_stacks(op, op.MatMul(other, g), n, 1)


def _sum_stacks(op: Builder, g: ir.Value, n: Place, i: int) -> ir.Value:
    """Sum `g` over the stacks for which input i was broadcast; refuse sums over the batch."""
    left, right = n.shape(0), n.shape(1)
    if len(right) < 2 or (len(left) < 2 and n.is_active(1)):
        raise NotImplementedError("a product with a vector or along the batch")
    mine, all_ = n.shape(i)[:-2], n.y_shape[:-2]
    if len(mine) != len(all_):
        raise NotImplementedError("a product that adds an axis")
    axes = [a + 1 for a, (small, big) in enumerate(zip(mine, all_, strict=True)) if small != big]
    return op.ReduceSum(g, op.ints(*axes), keepdims=1) if axes else g


def _einsum(i: int) -> Rule:
    """The same product with the places of the output and of input i exchanged."""

    def rule(op: Builder, g: ir.Value, n: Place) -> ir.Value:
        terms, arrow, out = n.attribute("equation").replace(" ", "").partition("->")
        inputs = terms.split(",")
        if not arrow or len(inputs) != 2 or "." in terms:
            raise NotImplementedError(f"the equation {n.attribute('equation')!r}")
        mine, other = inputs[i], inputs[1 - i]
        alone = set(mine) - set(other) - set(out)
        if alone or any(len(set(term)) < len(term) for term in inputs):
            raise NotImplementedError("sums over one operand, or diagonals")
        return op.Einsum(g, n.x(1 - i), equation=f"{out},{other}->{mine}")

    return rule


defvjp("Conv", conv_input_gradient)
defvjp("Gemm", _gemm)
defvjp("MatMul", _matmul_left, _matmul_right)
defvjp("Einsum", _einsum(0), _einsum(1))


# Normalisation of one image at a time -----------------------------------------------------------


def _normalisation(op: Builder, g: ir.Value, n: Place, axes: list[int]) -> ir.Value:
    """With c = x - avg(x) over `axes` and r = 1/sqrt(avg(c c) + eps):

    d x = r (g - avg(g) - c r^2 avg(g c))
    """
    over = op.ints(*axes)
    x = n.x(0)
    c = op.Sub(x, op.ReduceMean(x, over, keepdims=1))
    variance = op.ReduceMean(op.Mul(c, c), over, keepdims=1)
    r = op.Reciprocal(op.Sqrt(op.Add(variance, op.constant(n.attribute("epsilon", 1e-5)))))
    through_variance = op.Mul(op.Mul(r, r), op.ReduceMean(op.Mul(g, c), over, keepdims=1))
    centred = op.Sub(g, op.ReduceMean(g, over, keepdims=1))
    return op.Mul(r, op.Sub(centred, op.Mul(c, through_variance)))


def _layer_norm(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    rank = len(n.shape(0)) + 1
    axes = list(range(n.attribute("axis", -1) % rank, rank))
    return _normalisation(op, op.Mul(g, n.x(1)), n, axes)


def _instance_norm(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    channels, *spatial = n.shape(0)
    scale = op.Reshape(n.x(1), op.ints(1, channels, *(1 for _ in spatial)))
    return _normalisation(op, op.Mul(g, scale), n, list(range(2, 2 + len(spatial))))


defvjp("LayerNormalization", _layer_norm)
defvjp("InstanceNormalization", _instance_norm)


# Batch normalisation (Ioffe & Szegedy, ICML 2015) with mixed statistics --------------------------


def _batch_norm(op: Builder, g: ir.Value, n: Place) -> ir.Value:
    """With m the mean and r = inv_std in use, b the weight of the batch's statistics in them,
    avg over the M values (B, H, W) of a channel, and a = scale r:

        q = r avg(g (x - m)) = r (avg(g x) - m avg(g))
        d scale = M q        d shift = M avg(g)
        d x = a (g - b avg(g) - b r q (x - batch_mean))
    """
    s = n.statistics()
    axes = op.ints(*(a for a in range(len(n.shape(0)) + 1) if a != 1))
    flat = op.ints(-1)
    x = n.x(0)
    avg_g = op.ReduceMean(g, axes, keepdims=1)
    avg_gx = op.ReduceMean(op.Mul(g, x), axes, keepdims=1)
    q = op.Mul(op.Sub(avg_gx, op.Mul(s.mean, avg_g)), s.inv_std)
    n.affine_grads.append(op.Mul(op.Reshape(q, flat), s.count))
    n.affine_grads.append(op.Mul(op.Reshape(avg_g, flat), s.count))
    if not n.is_active(0):
        return g  # Never used: nothing upstream trains.
    # a (g + u x + v), with everything per channel in u and v. The factor comes last: a runtime that
    # fuses would else compute a g together with g x, and keep it until the averages are there.
    u = op.Neg(op.Mul(s.batch_weight, op.Mul(q, s.inv_std)))
    v = op.Sub(op.Neg(op.Mul(s.batch_weight, avg_g)), op.Mul(u, s.batch_mean))
    return op.Mul(op.Add(op.Add(g, op.Mul(x, u)), v), s.slope)


defvjp("BatchNormalization", _batch_norm)
