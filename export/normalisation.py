"""BatchNormalization layers as a burst sees them: statistics of the batch, scale and shift live."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.builder import Builder, float_array, initializer

BATCH = "batch"
# Residuals that hold every layer's batch mean and 1/sqrt(var + eps), float32 [P/2] each.
STATISTICS = ("batch_mean", "inv_std")


@dataclass(frozen=True)
class NormLayer:
    """One BatchNormalization node and where its parameters lie in the affine vector.

    `affine[offset : offset + channels]` is the scale, the next `channels` values the shift.
    """

    node: ir.Node
    channels: int
    offset: int

    @property
    def name(self) -> str:
        """The layer's name, from its scale parameter where that has one."""
        scale = self.node.inputs[1]
        assert scale is not None
        return str(scale.name).removesuffix(".weight")

    @property
    def per_channel(self) -> tuple[int, ...]:
        """Shape of a per-channel value that broadcasts with the layer's input, [1, C, 1, ...]."""
        return (1, self.channels, *(1 for _ in static_shape(self.node.inputs[0])[1:]))

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes that the statistics run over: all but the channels."""
        return tuple(a for a in range(len(self.per_channel)) if a != 1)

    def stored(self, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Return the layer's stored parameter at this input, float32 [1, C, 1, ...]."""
        return float_array(self.node.inputs[index]).reshape(self.per_channel)


@dataclass(frozen=True)
class Mixture:
    """How much the batch's and the running statistics count, scalars [1] that add up to 1."""

    batch: ir.Value
    source: ir.Value


def mixture(op: Builder, source_weight: ir.Value) -> Mixture:
    """Return both weights from the graph's input."""
    return Mixture(op.Sub(op.constant([1.0]), source_weight), source_weight)


def mixed_mean(op: Builder, layer: NormLayer, batch_mean: ir.Value, mix: Mixture) -> ir.Value:
    """Return the mean in use, [1, C, 1, ...]."""
    mean = op.Mul(batch_mean, mix.batch)
    running = layer.stored(3)
    if not running.any():
        return mean  # as `centre_convolutions` leaves it
    return op.Add(mean, op.Mul(op.constant(running), mix.source))


def slope_and_shift(
    op: Builder, scale: ir.Value, shift: ir.Value, mean: ir.Value, inv_std: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return a and b of y = a x + b, the layer as one affine map; all values [1, C, 1, ...]."""
    slope = op.Mul(scale, inv_std)
    return slope, op.Sub(shift, op.Mul(mean, slope))


def per_layer(
    op: Builder, vector: ir.Value, layers: list[NormLayer], pieces: int
) -> list[tuple[ir.Value, ...]]:
    """Cut a vector that holds `pieces` values a channel into [1, C, 1, ...] for each layer."""
    sizes = [layer.channels for layer in layers for _ in range(pieces)]
    flat = op.multi("Split", (vector, op.ints(*sizes)), len(sizes), axis=0)
    return [
        tuple(op.Reshape(flat[pieces * i + j], op.ints(*layer.per_channel)) for j in range(pieces))
        for i, layer in enumerate(layers)
    ]


def norm_layers(graph: ir.Graph) -> list[NormLayer]:
    """List the BatchNormalization layers in graph order, which is the order of `affine`."""
    layers: list[NormLayer] = []
    offset = 0
    for node in graph:
        if node.op_type == "BatchNormalization" and node.domain == "":
            channels = static_shape(node.inputs[0])[0]
            layers.append(NormLayer(node, channels, offset))
            offset += 2 * channels
    return layers


def static_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Return a value's shape without its batch axis; it must be static."""
    if value is None or value.shape is None:
        raise EdgewfError(
            f"the shape of {value.name if value else 'a missing input'!r} cannot be inferred: "
            "re-export the model with static height and width"
        )
    dims = list(value.shape)[1:]
    if not all(isinstance(d, int) for d in dims):
        raise EdgewfError(
            f"value {value.name!r} has the shape {value.shape}, but only the batch may be "
            "symbolic: re-export the model with static height and width"
        )
    return tuple(int(d) for d in dims)  # type: ignore[arg-type]


def centre_convolutions(graph: ir.Graph) -> None:
    """Move the running means of BatchNorm layers into the biases of the convolutions before them.

    The network stays the same, but what a layer normalises is now centred up to the shift of the
    domain, so E[x^2] - E[x]^2 and E[g x] - E[g] E[x] lose few digits and one pass over memory
    suffices for each. In half precision the activations keep more digits too.
    """
    for layer in norm_layers(graph):
        x = layer.node.inputs[0]
        assert x is not None
        conv = x.producer()
        if conv is None or conv.op_type != "Conv" or len(x.uses()) > 1:
            continue
        bias = -float_array(layer.node.inputs[3])
        if not bias.any():
            continue
        if len(conv.inputs) > 2 and conv.inputs[2] is not None:
            if conv.inputs[2].const_value is None:
                continue
            bias = bias + float_array(conv.inputs[2])
        conv.resize_inputs(3)
        for node, index, array in (
            (conv, 2, bias),
            (layer.node, 3, np.zeros(layer.channels, np.float32)),
        ):
            value = initializer(f"{layer.node.outputs[0].name}.centring_{index}", array)
            graph.register_initializer(value)
            node.replace_input_with(index, value)
