"""OpenVINO on the CPU: faster than ONNX Runtime on x86, and far leaner in a step."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from edgewf.bundle import Bundle
from edgewf.engines import Features, Float32, Images, Role
from edgewf.engines.host import HostEngine, LogitsGradient
from edgewf.engines.openvino_graph import (
    fold_constants,
    keep_channels_last,
    spell_out_hard_sigmoids,
    step_model,
)
from edgewf.engines.openvino_module import ov
from edgewf.errors import EdgewfError
from edgewf.settings import BurstSettings

# Compiled models kept, of all graphs together. A burst needs three; a last, smaller batch of
# other callers as many again.
_KEPT = 6


class OpenVINOCPU(HostEngine):
    """Runs a bundle with OpenVINO's CPU plugin and the NumPy kernel.

    A graph is compiled when it meets a batch size for the first time, because OpenVINO plans
    layouts and memory for fixed shapes; `reset` sees to what its burst will need.
    """

    name = "openvino"
    joins_graphs = True

    def __init__(self, bundle: Bundle, threads: int | None = None, role: Role = Role.ALONE) -> None:
        """Start OpenVINO; graphs are compiled on first use.

        Args:
            bundle: a checked bundle.
            threads: threads an operator may use; None leaves it to OpenVINO, except for bursts
                beside inference, which have one.
            role: what it runs beside.
        """
        super().__init__(bundle)
        self._core = ov.Core()
        # Float32 on every processor: some would else compute in bfloat16 or float16.
        self._config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Every process would pin its threads to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is None and role is Role.BURSTS:
            # All models of a process share OpenVINO's workers. Inference would wait for those
            # that are in the midst of a burst's operator, and at their priority, not a burst's.
            threads = 1
        if threads is not None:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self._compiled: OrderedDict[tuple[str, int], ov.InferRequest] = OrderedDict()
        self._dlogits: LogitsGradient | None = None
        self._cancelled = False

    def reset(self, settings: BurstSettings) -> None:
        super().reset(settings)
        for graph in ("infer", "probe", "step") if settings.steps else ("infer", "probe"):
            self._request(graph, settings.batch_size)

    def infer(self, images: Images) -> Float32:
        return self._run("infer", {"images": images}, "logits")[0]

    def adapted_logits(self, images: Images) -> Float32:
        return self._run("probe", self.feed(images), "logits")[0]

    def features(self, images: Images) -> Features:
        return Features(*self._run("probe", self.feed(images), "logits", "embedding"))

    def cancel(self) -> None:
        self._cancelled = True
        for request in tuple(self._compiled.values()):
            request.cancel()

    def gradient(self, images: Images, dlogits: LogitsGradient) -> Float32:
        self._dlogits = dlogits
        return self._run("step", self.feed(images), "affine_grad")[0]

    def _ask(self, logits: Float32) -> Float32:
        assert self._dlogits is not None, "gradient() says what comes between the graphs"
        return self._dlogits(logits)

    def _run(self, graph: str, feed: dict[str, Any], *outputs: str) -> list[Float32]:
        request = self._request(graph, len(feed["images"]))
        for name, value in feed.items():
            request.set_tensor(name, ov.Tensor(np.ascontiguousarray(value)))
        if self._cancelled:
            raise EdgewfError("the engine was told to stop")
        # On a thread of OpenVINO's: Ctrl-C would else be raised inside `_ask`, and OpenVINO
        # swallows what its callbacks raise.
        request.start_async()
        request.wait()
        return [request.get_tensor(name).data.copy() for name in outputs]

    def _request(self, graph: str, batch: int) -> ov.InferRequest:
        key = (graph, batch)
        if key not in self._compiled:
            while len(self._compiled) >= _KEPT:
                self._compiled.popitem(last=False)
            try:
                model = self._model(graph)
                frame = list(model.input("images").partial_shape)[1:]
                model.reshape({"images": [batch, *frame]})
                if graph != "infer":
                    fold_constants(model)
                    keep_channels_last(model)
                compiled = self._core.compile_model(model, "CPU", self._config)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise EdgewfError(
                    f"{self.bundle.folder}: OpenVINO {ov.__version__} cannot compile its {graph} "
                    f"graph for a batch of {batch}: {reason}; use --engine onnxruntime"
                ) from error
            self._compiled[key] = compiled.create_infer_request()
        self._compiled.move_to_end(key)
        return self._compiled[key]

    def _model(self, graph: str) -> ov.Model:
        if graph == "infer":
            return self._read("infer.onnx")
        if graph == "probe":
            model = self._read("probe.onnx")
        else:
            forward, backward = self._read("forward.onnx"), self._read("backward.onnx")
            model = step_model(forward, backward, self._ask)
        spell_out_hard_sigmoids(model)
        return model

    def _read(self, name: str) -> ov.Model:
        return self._core.read_model(self.bundle.path(name))
