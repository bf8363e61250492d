"""The row of ONNX Runtime Training's on-device API, which lives in an environment of its own.

    python -m benchmarks.latency.ort_training

ONNX Runtime Training ended with 1.19.2 and needs old versions of other packages:

    pip install onnxruntime-training==1.19.2 'onnx<1.17' 'numpy<2' 'protobuf<5' torch

It is given the graph of `training_graph`, float32 [B, 3, S, S], as PyTorch is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency.protocol import Row, serve

LEARNING_RATE = 1e-9


def make(order: dict[str, Any]) -> Row:
    """Make the artefacts and load them.

    Args:
        order: "training_graph" with its entropy as the output, "affine" (names of scales and
            shifts in it), "deployed_graph", "input" (.npy), "threads", "folder" for artefacts.
    """
    import onnx
    import onnxruntime as ort
    from onnxruntime.training import artifacts
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    graph = onnx.load(order["training_graph"])
    affine = order["affine"]
    _use_batch_statistics(graph)
    frozen = [x.name for x in graph.graph.initializer if x.name not in affine]
    artifacts.generate_artifacts(
        graph,
        requires_grad=affine,
        frozen_params=frozen,
        optimizer=artifacts.OptimType.SGD,
        artifact_directory=order["folder"],
    )
    folder = Path(order["folder"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = order["threads"]
    options.log_severity_level = 3
    state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    training = str(folder / "training_model.onnx")
    module = Module(training, state, device="cpu", session_options=options)
    module.train()
    optimizer = Optimizer(str(folder / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(LEARNING_RATE)
    deployed = ort.InferenceSession(
        order["deployed_graph"], options, providers=["CPUExecutionProvider"]
    )
    x = np.load(order["input"])

    def step() -> None:
        module(x)
        optimizer.step()
        module.lazy_reset_grad()

    def gradient(path: Path) -> None:
        module.lazy_reset_grad()
        module(x)
        found = [state.parameters[name].grad.ravel() for name in affine]
        np.save(path, np.concatenate(found))
        module.lazy_reset_grad()

    return Row(step, lambda: deployed.run(None, {"x": x}), gradient)


def _use_batch_statistics(graph: Any) -> None:
    """Switch every BatchNorm to training."""
    from onnx import helper

    for node in graph.graph.node:
        if node.op_type == "BatchNormalization":
            kept = [a for a in node.attribute if a.name != "training_mode"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("training_mode", 1)])
            output = node.output[0]
            node.output[:] = [output, f"{output}_mean", f"{output}_variance"]


if __name__ == "__main__":
    serve(make)
