"""ONNX Runtime on an NVIDIA GPU, with its CUDA or its TensorRT provider."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgewf.bundle import Bundle
from edgewf.engines import Role
from edgewf.engines.device import DeviceEngine, DeviceGraph, Tensor
from edgewf.engines.gpu import Gpu
from edgewf.errors import EdgewfError

Provider = str | tuple[str, dict[str, str]]

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
}


class OnnxRuntimeCUDA(DeviceEngine):
    """Runs a bundle with ONNX Runtime's CUDA provider."""

    name = "ort-cuda"

    def __init__(self, bundle: Bundle, threads: int | None = None, role: Role = Role.ALONE) -> None:
        """Load the deployed graph.

        Args:
            bundle: a checked bundle.
            threads, role: mean nothing here.

        Raises:
            EdgewfError: the GPU, its provider or pycuda is missing, ONNX Runtime refuses a
                graph, or the GPU has no room.
        """
        super().__init__(bundle, Gpu())

    def load(self, name: str, batch: int) -> DeviceGraph:
        return SessionGraph(self.bundle.path(name), self.providers(), self.gpu)

    def providers(self) -> Sequence[Provider]:
        """Return ONNX Runtime's providers with their options, on the engine's stream."""
        stream = str(self.gpu.stream_handle)
        # Heuristics choose the same convolutions every time, trials do not. TensorFloat-32 has
        # a tenth of float32's digits.
        options = {
            "user_compute_stream": stream,
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
            "arena_extend_strategy": "kSameAsRequested",
        }
        return [("CUDAExecutionProvider", options)]


class OnnxRuntimeTensorRT(OnnxRuntimeCUDA):
    """Runs a bundle with ONNX Runtime's TensorRT provider; CUDA takes what TensorRT does not.

    The provider builds its plans when it first meets a batch size and keeps them in the bundle.
    """

    name = "ort-tensorrt"

    def providers(self) -> Sequence[Provider]:
        options = {
            "user_compute_stream": str(self.gpu.stream_handle),
            "trt_fp16_enable": str(int(self.bundle.manifest.precision == "fp16")),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": os.fspath(self.bundle.path("engines") / "onnxruntime"),
        }
        return [("TensorrtExecutionProvider", options), *super().providers()]


class SessionGraph:
    """A graph in a session of ONNX Runtime, see `edgewf.engines.device.DeviceGraph`."""

    def __init__(
        self, path: Path, providers: Sequence[Provider], gpu: Gpu, device: str = "cuda"
    ) -> None:
        """Load the graph.

        Args:
            path: of the ONNX file.
            providers: what runs it, the first that can.
            gpu: where.
            device: where the tensors lie, as ONNX Runtime spells it.

        Raises:
            EdgewfError: ONNX Runtime refuses the graph, or runs it without the first provider.
        """
        self._path, self._gpu, self._device = path, gpu, device
        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(os.fspath(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime raises classes of its own, all from Exception
            raise self._failure("load", error) from error
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if wanted not in self._session.get_providers():
            raise EdgewfError(
                f"ONNX Runtime {ort.__version__} cannot start {wanted}: a library of CUDA, cuDNN "
                "or TensorRT is missing or of another version; `edgewf doctor` says which are here"
            )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._inputs = {x.name for x in inputs}
        self.tensors: Mapping[str, Tensor] = {
            x.name: Tensor(
                np.dtype(_TYPES[x.type]),
                tuple(n if isinstance(n, int) else None for n in x.shape),
            )
            for x in (*inputs, *outputs)
        }
        self._run = ort.RunOptions()
        self._run.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def prepare(self, batch: int) -> None:
        """Nothing: ONNX Runtime takes its memory in the first run."""

    def enqueue(self, batch: int, addresses: Mapping[str, int]) -> None:
        binding = self._session.io_binding()
        for name, tensor in self.tensors.items():
            bind = binding.bind_input if name in self._inputs else binding.bind_output
            where: tuple[Any, ...] = (self._device, 0, tensor.dtype, tensor.fixed(batch))
            bind(name, *where, addresses[name])
        try:
            self._session.run_with_iobinding(binding, self._run)
        except Exception as error:
            raise self._failure("run", error) from error

    def free(self) -> None:
        del self._session

    def _failure(self, what: str, error: Exception) -> EdgewfError:
        reason = str(error).strip().splitlines()[0]
        if "out of memory" in str(error).lower() or "failed to allocate" in str(error).lower():
            return self._gpu.out_of_memory(f"{self._path}: {reason}")
        return EdgewfError(
            f"{self._path}: ONNX Runtime {ort.__version__} cannot {what} it: {reason}; upgrade "
            "onnxruntime-gpu or export the bundle again, and if the GPU failed restart this process"
        )
