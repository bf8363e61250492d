"""ONNX Runtime on the CPU: the engine that runs everywhere."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgewf.bundle import BACKWARD_INPUTS, Bundle
from edgewf.engines import BurstRecord, Float32, Images, Predictions, StepTrace
from edgewf.errors import EdgewfError
from edgewf.kernels import reference
from edgewf.settings import BurstSettings


class OnnxRuntimeCPU:
    """Runs a bundle with ONNX Runtime's CPU provider and the NumPy kernel.

    The deployed graph, the deployed affine vector and the bundle's files are never written to:
    a burst works on its own copy of `affine`.
    """

    name = "onnxruntime-cpu"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Load the three graphs.

        Args:
            bundle: a checked bundle.
            threads: threads an operator may use; None leaves it to ONNX Runtime.

        Raises:
            EdgewfError: ONNX Runtime refuses a graph.
        """
        self._bundle = bundle
        self._threads = threads or 0
        self._infer = self._session("infer.onnx")
        self._forward = self._session("forward.onnx")
        self._backward = self._session("backward.onnx")
        inputs = [x.name for x in self._backward.get_inputs()]
        self._residuals = [name for name in inputs if name not in BACKWARD_INPUTS]
        self._affine = bundle.affine.copy()
        self._velocity = np.zeros_like(self._affine)
        self._source_weight = np.zeros(1, np.float32)
        self._settings: BurstSettings | None = None
        self._mean: NDArray[np.float64] | None = None
        self._deployed: list[Predictions] = []
        self._before: list[Predictions] = []
        self._after: list[Predictions] = []
        self._steps: list[StepTrace] = []

    def infer(self, images: Images) -> Float32:
        logits: Float32 = self._infer.run(["logits"], {"images": images})[0]
        return logits

    def reset(self, settings: BurstSettings) -> None:
        self._settings = settings
        self._source_weight = np.array([settings.source_weight], np.float32)
        self._affine = self._bundle.affine.copy()
        self._velocity = np.zeros_like(self._affine)
        self._mean = None
        self._deployed, self._before, self._after, self._steps = [], [], [], []

    def record(self, images: Images) -> None:
        self._deployed.append(_predictions(self.infer(images)))
        self._before.append(_predictions(self.adapted_logits(images)))

    def probe(self, images: Images) -> None:
        self._after.append(_predictions(self.adapted_logits(images)))

    def step(self, images: Images) -> None:
        assert self._settings is not None, "reset() starts a burst"
        logits, residuals = self._run_forward(images)
        rows = reference.em_objective(logits, self._settings.kernel_objective, self._mean)
        selected, self._mean = reference.em_reduce(rows, self._mean)
        moved = False
        if selected:
            gradient = self._run_backward(rows.dlogits, residuals)
            moved = reference.sgd_update(
                self._affine,
                self._velocity,
                gradient,
                n_selected=selected,
                learning_rate=self._settings.learning_rate,
                momentum=self._settings.momentum,
            )
        self._steps.append(
            StepTrace(
                samples=len(images),
                mean_entropy=float(rows.entropy.mean()),
                reliable=int(rows.reliable.sum()),
                selected=selected,
                moved=moved,
            )
        )

    def read(self) -> BurstRecord:
        return BurstRecord(
            deployed=_joined(self._deployed),
            before=_joined(self._before),
            after=_joined(self._after),
            steps=tuple(self._steps),
            affine_change=float(np.linalg.norm(self._affine - self._bundle.affine)),
        )

    def adapted_logits(self, images: Images) -> Float32:
        """Return logits [B, K] under the burst's statistics and affine vector."""
        feed = {"images": images, "affine": self._affine, "source_weight": self._source_weight}
        logits: Float32 = self._forward.run(["logits"], feed)[0]
        return logits

    def affine_gradient(self, images: Images, dlogits: Float32) -> tuple[Float32, Float32]:
        """Return logits [B, K] and the gradient [P] of sum(dlogits * logits)."""
        logits, residuals = self._run_forward(images)
        return logits, self._run_backward(dlogits, residuals)

    def _run_forward(self, images: Images) -> tuple[Float32, dict[str, ort.OrtValue]]:
        """Residuals stay in ONNX Runtime's own buffers, which `backward` then reads."""
        binding = self._forward.io_binding()
        binding.bind_cpu_input("images", images)
        binding.bind_cpu_input("affine", self._affine)
        binding.bind_cpu_input("source_weight", self._source_weight)
        for name in ("logits", *self._residuals):
            binding.bind_output(name, "cpu")
        self._forward.run_with_iobinding(binding)
        logits, *residuals = binding.get_outputs()
        return logits.numpy(), dict(zip(self._residuals, residuals, strict=True))

    def _run_backward(self, dlogits: Float32, residuals: dict[str, ort.OrtValue]) -> Float32:
        binding = self._backward.io_binding()
        binding.bind_cpu_input("dlogits", dlogits)
        binding.bind_cpu_input("affine", self._affine)
        binding.bind_cpu_input("source_weight", self._source_weight)
        for name, value in residuals.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("affine_grad", "cpu")
        self._backward.run_with_iobinding(binding)
        gradient: Float32 = binding.get_outputs()[0].numpy()
        return gradient

    def _session(self, name: str) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        path = os.fspath(self._bundle.path(name))
        try:
            return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises classes of its own, all from Exception
            reason = str(error).strip().splitlines()[0]
            raise EdgewfError(
                f"{path}: ONNX Runtime {ort.__version__} cannot load it: {reason}; "
                "upgrade onnxruntime or export the bundle again"
            ) from error


def _predictions(logits: Float32) -> Predictions:
    p, _, _ = reference.softmax_entropy(logits)
    return Predictions(reference.labels(logits), p.max(axis=1))


def _joined(parts: list[Predictions]) -> Predictions:
    if not parts:
        return Predictions(np.zeros(0, np.int64), np.zeros(0))
    return Predictions(
        np.concatenate([p.label for p in parts]), np.concatenate([p.confidence for p in parts])
    )
