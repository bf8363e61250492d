"""The graphs of a bundle, from a canonical classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from edgewf.bundle import BACKWARD_INPUTS
from edgewf.export.builder import float_array
from edgewf.export.cost import multiply_adds, residual_bytes
from edgewf.export.differentiate import differentiate
from edgewf.export.forward import (
    classifier_of,
    embedding_of,
    expose,
    take_frames,
    use_batch_statistics,
)
from edgewf.export.half import HALF, to_half
from edgewf.export.normalisation import STATISTICS, centre_convolutions, norm_layers
from edgewf.preprocessing import Preprocessing


@dataclass(frozen=True)
class Graphs:
    """What a burst runs.

    Attributes:
        infer: `images` -> `logits`, running statistics.
        probe: `images`, `affine`, `source_weight` -> `logits`, `embedding`, batch statistics.
        forward: as `probe`, and the residuals that `backward` takes.
        backward: `dlogits`, residuals, `affine`, `source_weight` -> `affine_grad`.
        classifier: `embedding` -> `logits`; None where something leads past the embedding.
        affine: float32 [P], the deployed scales and shifts.
        layers: name and channels of each BatchNorm layer, in the order of `affine`.
        residual_bytes: what forward keeps for backward, bytes an image.
        multiply_adds: of a step, forward and backward, an image.
        recomputed: share of `multiply_adds` that low memory adds.
    """

    infer: ir.Model
    probe: ir.Model
    forward: ir.Model
    backward: ir.Model
    classifier: ir.Model | None
    affine: NDArray[np.float32]
    layers: list[tuple[str, int]]
    residual_bytes: int
    multiply_adds: int
    recomputed: float


def assemble(
    deployed: ir.Model,
    preprocessing: Preprocessing,
    model_name: str,
    *,
    precision: str = "fp32",
    low_memory: bool = False,
) -> Graphs:
    """Differentiate the canonical classifier and build its graphs around shared weights.

    Args:
        deployed: see `canonicalize`.
        preprocessing: what goes before it.
        model_name: for error messages.
        precision: "fp32", or "fp16" for mixed graphs, see `to_half`.
        low_memory: see `differentiate`.
    """
    layers = norm_layers(deployed.graph)
    affine = np.concatenate([float_array(layer.node.inputs[i]) for layer in layers for i in (1, 2)])
    embedding = embedding_of(deployed.graph).name
    assert embedding is not None
    infer, forward = deployed.clone(), deployed.clone()
    classifier = classifier_of(deployed, embedding)
    if classifier is not None:
        _finish(classifier, "classifier")
    centre_convolutions(forward.graph)
    backward = differentiate(forward.graph, model_name, low_memory=low_memory)
    plain = differentiate(forward.graph, model_name) if low_memory else backward
    residuals = [str(v.name) for v in backward.graph.inputs if v.name not in BACKWARD_INPUTS]
    use_batch_statistics(forward.graph)
    take_frames(forward.graph, preprocessing)
    expose(forward.graph, embedding, residuals)
    take_frames(infer.graph, preprocessing)
    models = {"infer": infer, "forward": forward, "backward": backward}
    for name, model in models.items():
        _finish(model, name)
    if low_memory:
        _finish(plain, "backward")
    forward_cost, cost, plain_cost = (multiply_adds(m.graph) for m in (forward, backward, plain))
    if precision == "fp16":
        _retype(infer, forward, backward)
        if classifier is not None:
            to_half(classifier.graph, frozenset({"logits"}))
            _finish(classifier, "classifier")
        for name, model in models.items():
            _finish(model, name)
    probe = forward.clone()
    del probe.graph.outputs[-len(residuals) :]
    _finish(probe, "probe")
    return Graphs(
        **models,
        probe=probe,
        classifier=classifier,
        affine=affine,
        layers=[(x.name, x.channels) for x in layers],
        residual_bytes=residual_bytes(backward.graph, residuals),
        multiply_adds=forward_cost + cost,
        recomputed=(cost - plain_cost) / (forward_cost + cost),
    )


def _retype(infer: ir.Model, forward: ir.Model, backward: ir.Model) -> None:
    outputs = frozenset({"logits", "embedding"})
    to_half(infer.graph, outputs)
    to_half(forward.graph, outputs | frozenset(STATISTICS))
    types = {v.name: v.type for v in forward.graph.outputs}
    for value in backward.graph.inputs:
        value.type = types.get(value.name, value.type)
        if value.name == "dlogits":
            value.type = ir.TensorType(HALF)
    to_half(backward.graph, frozenset({"affine_grad"}))


def _finish(model: ir.Model, name: str) -> None:
    model.graph.name = name
    model.producer_name, model.producer_version = "edgewf", None
    passes.RemoveUnusedNodesPass()(model)
    passes.TopologicalSortPass()(model)
    passes.ShapeInferencePass()(model)
    passes.CheckerPass(full_check=False)(model)
