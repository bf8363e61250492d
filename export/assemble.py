"""The three graphs of a bundle, from a canonical classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from edgewf.bundle import BACKWARD_INPUTS
from edgewf.export.builder import float_array
from edgewf.export.differentiate import differentiate, norm_layers
from edgewf.export.forward import embedding_of, expose, take_frames, use_batch_statistics
from edgewf.preprocessing import Preprocessing


@dataclass(frozen=True)
class Graphs:
    """What a burst runs.

    Attributes:
        infer: `images` -> `logits`, running statistics.
        forward: `images`, `affine`, `source_weight` -> `logits`, `embedding`, residuals.
        backward: `dlogits`, residuals, `affine`, `source_weight` -> `affine_grad`.
        affine: float32 [P], the deployed scales and shifts.
        layers: name and channels of each BatchNorm layer, in the order of `affine`.
    """

    infer: ir.Model
    forward: ir.Model
    backward: ir.Model
    affine: NDArray[np.float32]
    layers: list[tuple[str, int]]


def assemble(deployed: ir.Model, preprocessing: Preprocessing, model_name: str) -> Graphs:
    """Differentiate the canonical classifier and build its three graphs around shared weights."""
    backward = differentiate(deployed.graph, model_name)
    layers = norm_layers(deployed.graph)
    affine = np.concatenate([float_array(layer.node.inputs[i]) for layer in layers for i in (1, 2)])
    embedding = embedding_of(deployed.graph).name
    assert embedding is not None
    residuals = [str(v.name) for v in backward.graph.inputs if v.name not in BACKWARD_INPUTS]
    forward, infer = deployed.clone(), deployed.clone()
    use_batch_statistics(forward.graph)
    expose(forward.graph, embedding, residuals)
    take_frames(forward.graph, preprocessing)
    take_frames(infer.graph, preprocessing)
    for model, name in ((infer, "infer"), (forward, "forward"), (backward, "backward")):
        model.graph.name = name
        _finish(model)
    return Graphs(infer, forward, backward, affine, [(x.name, x.channels) for x in layers])


def _finish(model: ir.Model) -> None:
    model.producer_name, model.producer_version = "edgewf", None
    passes.RemoveUnusedNodesPass()(model)
    passes.TopologicalSortPass()(model)
    passes.ShapeInferencePass()(model)
    passes.CheckerPass(full_check=False)(model)
