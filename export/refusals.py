"""Graphs that cannot be adapted, and what their owner can do about it."""

from __future__ import annotations

import onnx_ir as ir

from edgewf.errors import EdgewfError

# Layers that also normalise, and have no batch statistics to adapt with.
_OTHER_NORMS = {
    "LayerNormalization": "LayerNorm",
    "GroupNormalization": "GroupNorm",
    "InstanceNormalization": "InstanceNorm or GroupNorm",
}


def check_plain(graph: ir.Graph, name: str) -> None:
    """Refuse control flow and dropout that is on.

    Raises:
        EdgewfError: one of them is in the graph.
    """
    for node in graph:
        if any(isinstance(a.value, ir.Graph) for a in node.attributes.values()):
            raise EdgewfError(
                f"{name}: {node.op_type} {node.name!r} runs a part of the graph on a condition; "
                "edgewf differentiates plain graphs: re-export the model without control flow"
            )
        if node.op_type == "Dropout" and len(node.inputs) > 2:
            # Folding drops those that are off.
            raise EdgewfError(
                f"{name}: Dropout {node.name!r} is in training mode; "
                "export the model in evaluation mode: model.eval()"
            )


def check_batch_norm(graph: ir.Graph, name: str, unfold: str | None) -> None:
    """Refuse a graph without BatchNormalization layers that running statistics drive.

    Args:
        graph: canonical but for this.
        name: the model's, for error messages.
        unfold: how to write the model with its BatchNorm layers apart, where they may be folded.

    Raises:
        EdgewfError: no such layer, or one that trains, or whose parameters are not stored floats.
    """
    nodes = [node for node in graph if node.op_type == "BatchNormalization"]
    if not nodes:
        raise EdgewfError(f"{name}: {_without_batch_norm(graph, unfold)}")
    for node in nodes:
        parameters = [None if x is None else x.const_value for x in node.inputs[1:5]]
        if any(x is None for x in parameters):
            raise EdgewfError(
                f"{name}: BatchNormalization {node.name!r} has parameters computed by the graph; "
                "edgewf needs them as stored weights"
            )
        if node.attributes.get_int("training_mode", 0):
            raise EdgewfError(
                f"{name}: BatchNormalization {node.name!r} is in training mode; "
                "export the model in evaluation mode: model.eval()"
            )
        for x in parameters:
            if x is not None and x.dtype != ir.DataType.FLOAT:
                raise EdgewfError(
                    f"{name}: BatchNormalization {node.name!r} stores {x.name!r} as "
                    f"{x.dtype}; export the model in float32"
                )


def _without_batch_norm(graph: ir.Graph, unfold: str | None) -> str:
    kinds = [node.op_type for node in graph]
    counted = f"no BatchNormalization layer among {len(kinds)} nodes"
    others = {_OTHER_NORMS[kind] for kind in kinds if kind in _OTHER_NORMS}
    if others:
        return (
            f"{counted}: the model normalises with {' and '.join(sorted(others))}, which edgewf "
            "does not adapt yet; choose a model with BatchNorm"
        )
    convolutions = kinds.count("Conv")
    if unfold is None:
        return (
            f"{counted} ({convolutions} convolutions): the model has none, and edgewf cannot "
            "adapt it; choose one with BatchNorm"
        )
    return (
        f"{counted} ({convolutions} convolutions). Either the model has none, and edgewf cannot "
        f"adapt it, or they were folded into the convolutions: {unfold}"
    )
