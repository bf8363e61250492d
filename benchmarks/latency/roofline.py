"""The least time that a step can take here: operations and bytes over measured peak and bandwidth.

Operations are two for every multiply-add of convolutions and linear layers in the forward and the
backward graph. Bytes are what those nodes read and write, each input and output once and each
weight once a graph: as if everything elementwise between two of them, batch statistics too, were
computed on the way. No engine does; the distance says how much that costs. A cache that held
activations from one layer to the next would allow less than this.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import torch
from onnx import shape_inference
from torch.nn.functional import conv2d

from edgewf.bundle import Bundle
from edgewf.export.cost import multiply_adds
from edgewf.export.normalisation import static_shape

_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SIDE = 2048  # of the matrices of the product
_CHANNELS = 256  # into and out of the convolution
_VECTOR = 2**26  # elements of those for the bandwidth, far more than caches hold
_SECONDS = 3.0


@dataclass(frozen=True)
class Machine:
    """Attributes:
    flops: float32 operations a second.
    bandwidth: bytes a second between memory and processor.
    """

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Cost:
    """Of a step.

    Attributes:
        flops: operations an image.
        activations: bytes an image.
        weights: bytes a batch.
    """

    flops: float
    activations: float
    weights: float

    def intensity(self, batch: int) -> float:
        """Return operations a byte."""
        return batch * self.flops / self._bytes(batch)

    def seconds(self, machine: Machine, batch: int) -> float:
        """Return the roof: what the slower of processor and memory needs."""
        return max(batch * self.flops / machine.flops, self._bytes(batch) / machine.bandwidth)

    def _bytes(self, batch: int) -> float:
        return batch * self.activations + self.weights


def measure_machine(threads: int) -> Machine:
    """Take the fastest of many products of matrices and convolutions, and of many vector sums.

    Libraries differ by far in what they make of a processor: on an AMD EPYC with AVX-512 MKL's
    product reaches half of what oneDNN's convolution does.
    """
    torch.set_num_threads(threads)
    a, b = (torch.rand(_SIDE, _SIDE) for _ in range(2))
    frames = torch.rand(16, _CHANNELS, 28, 28).contiguous(memory_format=torch.channels_last)
    filters = torch.rand(_CHANNELS, _CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last)
    x, y, z = (torch.rand(_VECTOR) for _ in range(3))
    product = torch.empty_like(a)
    with torch.inference_mode():
        speeds = (
            2 * _SIDE**3 / _fastest(lambda: torch.mm(a, b, out=product)),
            2
            * frames.numel()
            * _CHANNELS
            * 9
            / _fastest(lambda: conv2d(frames, filters, padding=1)),
        )
        triad = _fastest(lambda: torch.add(x, y, out=z))
    return Machine(flops=max(speeds), bandwidth=3 * 4 * _VECTOR / triad)


def step_cost(bundle: Bundle) -> Cost:
    """Count a bundle's forward and backward graph."""
    flops = activations = weights = 0.0
    for name in ("forward.onnx", "backward.onnx"):
        proto = onnx.load(bundle.path(name), load_external_data=False)
        graph = ir.from_proto(shape_inference.infer_shapes(proto)).graph
        flops += 2 * multiply_adds(graph)
        seen: set[str] = set()
        for node in graph:
            if node.op_type not in _HEAVY:
                continue
            for value in (node.inputs[0], node.outputs[0]):
                activations += _image_bytes(value)
            for value in node.inputs[1:]:
                if value is not None and value.shape is not None and value.name not in seen:
                    assert value.dtype is not None
                    seen.add(value.name or "")
                    weights += math.prod(_dims(value.shape)) * value.dtype.itemsize
    return Cost(flops, activations, weights)


def _image_bytes(value: ir.Value | None) -> float:
    """Return the bytes of one image's part of a tensor."""
    assert value is not None
    assert value.dtype is not None
    return math.prod(static_shape(value)) * value.dtype.itemsize


def _dims(shape: ir.Shape) -> list[int]:
    return [int(n) for n in shape]  # type: ignore[arg-type]


def _fastest(call: Callable[[], object]) -> float:
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)
