"""ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort

from edgewf.bundle import BACKWARD_INPUTS, Bundle
from edgewf.engines import Features, Float32, Images, Role
from edgewf.engines.host import HostEngine, LogitsGradient
from edgewf.errors import EdgewfError


class OnnxRuntimeCPU(HostEngine):
    """Runs a bundle with ONNX Runtime's CPU provider and the NumPy kernel."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int | None = None, role: Role = Role.ALONE) -> None:
        """Load the graphs.

        Args:
            bundle: a checked bundle.
            threads: threads an operator may use; None leaves it to ONNX Runtime.
            role: unless alone, its threads sleep while they have nothing to do.

        Raises:
            EdgewfError: ONNX Runtime refuses a graph.
        """
        super().__init__(bundle)
        self._threads = threads or 0
        self._role = role
        self._options = ort.RunOptions()
        self._infer = self._session("infer.onnx")
        self._probe = self._session("probe.onnx")
        self._forward = self._session("forward.onnx")
        self._backward = self._session("backward.onnx")
        inputs = {x.name: x.type for x in self._backward.get_inputs()}
        self._residuals = [name for name in inputs if name not in BACKWARD_INPUTS]
        self._dlogits_type = np.float16 if inputs["dlogits"] == "tensor(float16)" else np.float32

    def infer(self, images: Images) -> Float32:
        logits: Float32 = self._infer.run(["logits"], {"images": images}, self._options)[0]
        return logits

    def adapted_logits(self, images: Images) -> Float32:
        logits: Float32 = self._probe.run(["logits"], self.feed(images), self._options)[0]
        return logits

    def features(self, images: Images) -> Features:
        feed = self.feed(images)
        return Features(*self._probe.run(["logits", "embedding"], feed, self._options))

    def cancel(self) -> None:
        self._options.terminate = True

    def gradient(self, images: Images, dlogits: LogitsGradient) -> Float32:
        logits, residuals = self._run_forward(images)
        upstream = dlogits(logits)
        if not upstream.any():  # the backward graph is linear: nothing in, nothing out
            return np.zeros_like(self.affine)
        return self._run_backward(upstream, residuals)

    def _run_forward(self, images: Images) -> tuple[Float32, dict[str, ort.OrtValue]]:
        """Residuals stay in ONNX Runtime's own buffers, which `backward` then reads."""
        binding = self._forward.io_binding()
        binding.bind_cpu_input("images", images)
        binding.bind_cpu_input("affine", self.affine)
        binding.bind_cpu_input("source_weight", self.source_weight)
        for name in ("logits", *self._residuals):
            binding.bind_output(name, "cpu")
        self._forward.run_with_iobinding(binding, self._options)
        logits, *residuals = binding.get_outputs()
        return logits.numpy(), dict(zip(self._residuals, residuals, strict=True))

    def _run_backward(self, dlogits: Float32, residuals: dict[str, ort.OrtValue]) -> Float32:
        binding = self._backward.io_binding()
        with np.errstate(over="ignore"):  # infinity is what the update looks for
            binding.bind_cpu_input("dlogits", dlogits.astype(self._dlogits_type))
        binding.bind_cpu_input("affine", self.affine)
        binding.bind_cpu_input("source_weight", self.source_weight)
        for name, value in residuals.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("affine_grad", "cpu")
        self._backward.run_with_iobinding(binding, self._options)
        gradient: Float32 = binding.get_outputs()[0].numpy()
        return gradient

    def _session(self, name: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        if self._role is not Role.ALONE:
            # Threads that spin keep a core from bursts, whose threads wait until nobody wants it,
            # and frames then wait for what a burst holds.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.fspath(self.bundle.path(name))
        try:
            return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises classes of its own, all from Exception
            reason = str(error).strip().splitlines()[0]
            raise EdgewfError(
                f"{path}: ONNX Runtime {ort.__version__} cannot load it: {reason}; "
                "upgrade onnxruntime or export the bundle again"
            ) from error
