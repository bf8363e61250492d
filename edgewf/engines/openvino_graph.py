"""A bundle's graphs as OpenVINO's CPU plugin runs them fast and right.

`step_model` joins forward and backward into one model with a callback between logits and
dlogits. Residuals then never leave OpenVINO: they keep the layout it chose and are freed as they
are used. One step of EfficientNet-Lite0 on a batch of 16 takes two cores 0.34 s and its process
0.9 GiB so, against 0.73 s and 1.8 GiB for two graphs in ONNX Runtime (`benchmarks.latency`;
OpenVINO 2026.4, ONNX Runtime 1.32).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgewf.engines.openvino_module import ConstantFolding, Manager, op, ov

Array = NDArray[np.floating]

_ELEMENTWISE = {"Add", "Divide", "Maximum", "Multiply", "Subtract"}


class Callback(ov.Op):  # type: ignore[misc]
    """An operator that asks Python: one array in, one of the same shape and type out."""

    def __init__(
        self, function: Callable[[Array], Array], inputs: list[ov.Output] | None = None
    ) -> None:
        super().__init__(self)
        self._function = function
        if inputs is not None:
            self.set_arguments(inputs)
            self.constructor_validate_and_infer_types()

    def validate_and_infer_types(self) -> None:
        self.set_output_type(0, self.get_input_element_type(0), self.get_input_partial_shape(0))

    def clone_with_new_inputs(self, inputs: list[ov.Output]) -> Callback:
        return Callback(self._function, inputs)

    def has_evaluate(self) -> bool:
        return True

    def evaluate(self, outputs: list[ov.Tensor], inputs: list[ov.Tensor]) -> bool:
        outputs[0].data[:] = self._function(inputs[0].data)
        return True


def step_model(
    forward: ov.Model, backward: ov.Model, dlogits: Callable[[Array], Array]
) -> ov.Model:
    """Join the graphs: images, affine, source_weight -> affine_grad.

    Args:
        forward, backward: as read from the bundle; both are used up.
        dlogits: called with the logits [B, K] of each run, returns their gradient.
    """
    values = {x.get_any_name(): x.get_node().input_value(0) for x in forward.outputs}
    given = {x.get_friendly_name(): x.output(0) for x in forward.get_parameters()}
    given |= values | {"dlogits": Callback(dlogits, [values["logits"]]).output(0)}
    for parameter in backward.get_parameters():
        value = given[parameter.get_friendly_name()]
        if value.get_element_type() != parameter.get_element_type():
            value = op.convert(value, parameter.get_element_type()).output(0)
        _replace(parameter.output(0), value)
    return ov.Model(backward.get_results(), forward.get_parameters(), "step")


def spell_out_hard_sigmoids(model: ov.Model) -> None:
    """Replace HardSigmoid, by which the backward graph masks, by max(0, min(1, a x + b)).

    OpenVINO 2026.4 takes b = 0 as 0.5, which lets half of a gradient pass where x is 0, and has
    no fast implementation of the operator: a step of EfficientNet-Lite0 lasts a sixth longer.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "HardSigmoid":
            continue
        x, a, b = node.input_values()
        spelt = op.clamp(op.add(op.multiply(x, a), b), 0.0, 1.0)
        _replace(node.output(0), spelt.output(0))


def fold_constants(model: ov.Model) -> None:
    """Compute what depends on shapes and weights alone, once the shapes are fixed.

    OpenVINO would do so itself, but after `keep_channels_last`, which then could not tell the bias
    of a convolution from a value of the burst.
    """
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def keep_channels_last(model: ov.Model) -> None:
    """Send per-channel operands of elementwise operators through a pooling of one pixel.

    A vector [1, C, 1, 1] computed from `affine` or from a sum is planar, and OpenVINO then runs
    the whole chain that meets it planar and reorders each activation before and after. A pooling
    returns it channels-last, exactly, and the activations stay as the convolutions around them
    leave them: a third of a step's time. (So would a convolution with ones, but for those OpenVINO
    keeps elementwise operators apart that it could fuse with each other.)

    Args:
        model: changed in place; operators whose shapes are not fixed stay as they are.
    """
    pinned: dict[tuple[str, int], ov.Output] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _ELEMENTWISE:
            continue
        if any(x.get_partial_shape().is_dynamic for x in node.inputs()):
            continue
        shapes = [list(x.get_shape()) for x in node.inputs()]
        if any(len(shape) != 4 for shape in shapes) or not any(
            shape[1] > 1 and shape[2] > 1 for shape in shapes
        ):
            continue
        for port, (_, channels, *rest) in enumerate(shapes):
            value = node.input_value(port)
            constant = value.get_node().get_type_name() == "Constant"
            if shapes[port][0] != 1 or channels == 1 or rest != [1, 1] or constant:
                continue
            key = (value.get_node().get_name(), value.get_index())
            if key not in pinned:
                pool = op.avg_pool(value, [1, 1], [0, 0], [0, 0], [1, 1], exclude_pad=True)
                pinned[key] = pool.output(0)
            node.input(port).replace_source_output(pinned[key])


def _replace(old: ov.Output, new: ov.Output) -> None:
    for reader in list(old.get_target_inputs()):
        reader.replace_source_output(new)
