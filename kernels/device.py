"""One burst's state on a GPU and the kernels that work on it; nothing here waits but `read`.

The order of calls, each of which only enqueues on the engine's stream:

    kernels.reset(objective, learning_rate=..., momentum=...)
    kernels.objective(Mode.DEPLOYED, logits, batch)      \\ for each batch of the window
    kernels.objective(Mode.BEFORE, logits, batch)        /
    kernels.rank_weights()
    kernels.objective(Mode.STEP, logits, batch, dlogits) \\
    kernels.reduce(logits, batch)                         | for each step
    kernels.update(affine_grad)                          /
    kernels.objective(Mode.AFTER, logits, batch)         for each batch of the window
    kernels.read()

Everything between `reset` and `read` may be captured in a CUDA graph and replayed: whatever
changes from one replay to the next (place in the window, step, learning rate, margins) lies in
device memory. pycuda is imported when a `BurstKernels` is made, in whose constructor and `read`
the CUDA context of the stream has to be current.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.kernels import layout
from edgewf.kernels.compiler import cubin
from edgewf.kernels.geometry import Geometry
from edgewf.kernels.reference import MEAN_DECAY, Float32, Float64, Objective

FloatType = Literal["float32", "float16", "bfloat16"]

# The name of each type in numbers.cuh, and its size in bytes.
C_TYPES: dict[FloatType, tuple[str, int]] = {
    "float32": ("float", 4),
    "float16": ("Half", 2),
    "bfloat16": ("BFloat16", 2),
}
MAX_CLASSES = 65_536
_BLOCK = 256  # threads of the kernels that take one element a thread


class Mode(IntEnum):
    """What `objective` does with a batch; the first three are columns of the window's table."""

    DEPLOYED = 0
    BEFORE = 1
    AFTER = 2
    STEP = 3


@dataclass(frozen=True)
class BurstResult:
    """What `BurstKernels.read` copies back: N frames, S steps.

    Attributes:
        label: int64 [3, N], by `Mode`: deployed, before, after.
        confidence: float64 [3, N], computed in float32.
        flipped: bool [2, N], the label after differs from the one deployed, the one before.
        flips: of both, how many.
        weighted_flips: of both, the sum of rank weights as `edgewf.flips.rank_weights` has them.
        samples, reliable, selected: int64 [S], of each step's batch.
        mean_entropy: float64 [S], nats, over the whole batch.
        moved: bool [S], the affine vector changed.
        affine_change: L2 distance of the adapted from the deployed affine vector.
    """

    label: NDArray[np.int64]
    confidence: Float64
    flipped: NDArray[np.bool_]
    flips: tuple[int, int]
    weighted_flips: tuple[float, float]
    samples: NDArray[np.int64]
    reliable: NDArray[np.int64]
    selected: NDArray[np.int64]
    mean_entropy: Float64
    moved: NDArray[np.bool_]
    affine_change: float


class BurstKernels:
    """Device buffers of one burst, and its kernels.

    Pointers are device addresses of tensors that the engine owns; rows are packed, [B, K] in C
    order. 16-byte aligned tensors are read and written 16 bytes at a time.

    Attributes:
        geometry: threads of `objective`.
    """

    def __init__(
        self,
        affine: Float32,
        *,
        classes: int,
        window: int,
        steps: int,
        logits_dtype: FloatType,
        dlogits_dtype: FloatType,
        loss_scale: float,
        stream: Any,
    ) -> None:
        """Compile or load the kernels and allocate; waits for the device.

        Args:
            affine: float32 [P], the deployed vector, copied to the device.
            classes: K, 2 to 65,536.
            window: most frames a burst records; also the largest batch.
            steps: most steps a burst takes.
            logits_dtype, dlogits_dtype: of forward's output and backward's input.
            loss_scale: what `dlogits` is multiplied with and `update` divides by; finite, > 0.
            stream: pycuda.driver.Stream that every call enqueues on.

        Raises:
            EdgewfError: pycuda or a compiler is missing, or the kernels do not compile or load.
            ValueError: K, window or loss scale out of range.
        """
        if not 2 <= classes <= MAX_CLASSES:
            raise ValueError(f"{classes} classes: the kernels take 2 to {MAX_CLASSES}")
        if window < 1 or steps < 0 or len(affine) < 1:
            raise ValueError(f"window {window}, steps {steps}, affine of {len(affine)}")
        if not 0 < loss_scale < np.inf:
            raise ValueError(f"loss scale {loss_scale}: need a finite number above 0")
        self._cuda = cuda = pycuda_driver()
        self._stream = stream
        self._loss_scale = loss_scale
        self._window = window
        self._classes = classes
        name, itemsize = C_TYPES[logits_dtype]
        self.geometry = Geometry.of(classes, itemsize)
        self._arena = layout.Arena(classes, len(affine), window, steps)
        major, minor = cuda.Context.get_device().compute_capability()
        code = cubin(
            f"sm_{major}{minor}", definitions(self.geometry, name, C_TYPES[dlogits_dtype][0])
        )
        try:
            self._module = cuda.module_from_buffer(code)
        except cuda.Error as error:
            raise EdgewfError(
                f"the CUDA driver refuses the kernels built for sm_{major}{minor}: {error}; "
                "update the driver, or install a CUDA toolkit no newer than it"
            ) from error
        self._functions = {name: self._prepared(name, args) for name, args in _ARGUMENTS.items()}
        self._memory = cuda.mem_alloc(self._arena.bytes)
        self._burst = self._arena.burst(int(self._memory))
        self._result = cuda.pagelocked_empty(self._arena.result_bytes, np.uint8)
        cuda.memcpy_htod(
            int(self._memory) + self._arena.offset("deployed"), np.ascontiguousarray(affine)
        )

    @property
    def affine_ptr(self) -> int:
        """Device address of the burst's affine vector, float32 [P], which forward reads."""
        return int(self._memory) + self._arena.offset("affine")

    def reset(
        self,
        objective: Objective,
        *,
        learning_rate: float,
        momentum: float,
        fisher: Float32 | None = None,
    ) -> None:
        """Start a burst: deployed affine vector, no velocity, empty tables. Not for capture.

        Args:
            objective: one that takes the gradient once.
            learning_rate, momentum: of the update.
            fisher: float32 [P], for an objective with a `fisher_weight`; waits for the device.

        Raises:
            ValueError: a second gradient is wanted, or Fisher information and its weight do not
                come together.
        """
        if objective.sharpness:
            raise ValueError("the kernels take the gradient of a step once")
        if (fisher is not None) != (objective.fisher_weight > 0):
            raise ValueError(f"Fisher weight {objective.fisher_weight}, information: {fisher}")
        if fisher is not None:
            if fisher.shape != (self._arena.parameters,) or fisher.dtype != np.float32:
                raise ValueError(f"Fisher information {fisher.dtype} {fisher.shape}")
            self._cuda.memcpy_htod(
                int(self._memory) + self._arena.offset("fisher"), np.ascontiguousarray(fisher)
            )
        settings = np.zeros((), layout.SETTINGS)
        settings["fisher_weight"] = objective.fisher_weight
        settings["entropy_margin"] = objective.entropy_margin
        settings["redundancy_margin"] = objective.redundancy_margin
        settings["weighted"] = objective.weighted
        settings["learning_rate"] = learning_rate
        settings["momentum"] = momentum
        settings["loss_scale"] = self._loss_scale
        self._launch("reset_burst", self._arena.parameters, settings.tobytes())

    def restart(self) -> None:
        """Go back to the deployed affine vector without velocity; the tables stay."""
        self._launch("restart_burst", self._arena.parameters)

    def objective(self, mode: Mode, logits_ptr: int, batch: int, dlogits_ptr: int = 0) -> None:
        """Take the labels of a batch into the window's table, or make its gradient.

        Args:
            mode: STEP writes dlogits; the others append labels and confidences, and AFTER
                also counts flips.
            logits_ptr: [B, K] of the logits' dtype.
            batch: B, at most the window.
            dlogits_ptr: [B, K] of the gradient's dtype, times the loss scale and summed over
                samples; only read with STEP.

        Raises:
            ValueError: a batch larger than the window, or STEP without a gradient to write.
        """
        if not 1 <= batch <= self._window:
            raise ValueError(f"batch of {batch} with room for {self._window}")
        if (mode == Mode.STEP) != bool(dlogits_ptr):
            raise ValueError(f"{mode.name} with dlogits at {dlogits_ptr:#x}")
        rows = self.geometry.rows
        grid, block = (-(-batch // rows), 1), (self.geometry.threads, 1, 1)
        self._enqueue("em_objective", grid, block, int(mode), logits_ptr, dlogits_ptr, batch)
        if mode != Mode.STEP:
            self._enqueue("advance_window", (1, 1), (1, 1, 1), int(mode), batch)

    def reduce(self, logits_ptr: int, batch: int) -> None:
        """Sum up the step that `objective` has just made of the same logits."""
        self._enqueue("em_reduce", (-(-self._classes // 32), 1), (32, 32, 1), logits_ptr, batch)

    def update(self, affine_grad_ptr: int) -> None:
        """Momentum SGD with backward's float32 [P], and on to the next step."""
        self._launch("check_gradient", self._arena.parameters, affine_grad_ptr)
        self._launch("sgd_update", self._arena.parameters, affine_grad_ptr)

    def rank_weights(self) -> None:
        """Rank the initial confidences; after the last one is recorded, before any AFTER."""
        self._enqueue("rank_weights", (-(-self._window // _BLOCK), 2), (_BLOCK, 1, 1))

    def read(self) -> BurstResult:
        """Wait for the stream and return everything since `reset`.

        Raises:
            ValueError: more frames or steps were enqueued than there was room for.
        """
        self._enqueue("affine_change", (1, 1), (1024, 1, 1))
        self._cuda.memcpy_dtoh_async(self._result, int(self._memory), self._stream)
        self._stream.synchronize()
        return result(self._arena, self._result)

    def _launch(self, name: str, elements: int, *arguments: Any) -> None:
        self._enqueue(name, (-(-elements // _BLOCK), 1), (_BLOCK, 1, 1), *arguments)

    def _enqueue(
        self, name: str, grid: tuple[int, int], block: tuple[int, int, int], *arguments: Any
    ) -> None:
        self._functions[name].prepared_async_call(
            grid, block, self._stream, self._burst, *arguments
        )

    def _prepared(self, name: str, arguments: tuple[str, ...]) -> Any:
        return self._module.get_function(name).prepare((f"{layout.BURST.itemsize}s", *arguments))


# What each kernel takes after the `Burst`, in the letters of Python's struct module.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "reset_burst": (f"{layout.SETTINGS.itemsize}s",),
    "restart_burst": (),
    "em_objective": ("i", "P", "P", "i"),
    "advance_window": ("i", "i"),
    "em_reduce": ("P", "i"),
    "check_gradient": ("P",),
    "sgd_update": ("P",),
    "rank_weights": (),
    "affine_change": (),
}
assert struct.calcsize("P") == 8, "the kernels' structures are laid out for 64-bit pointers"


def definitions(geometry: Geometry, logits: str, dlogits: str) -> tuple[str, ...]:
    """Return what the sources leave to the compiler's command line, as NAME=VALUE."""
    return (
        f"EM_LOGITS={logits}",
        f"EM_DLOGITS={dlogits}",
        f"EM_LANES={geometry.lanes}",
        f"EM_CHUNKS={geometry.chunks}",
        f"EM_RESIDENT={int(geometry.resident)}",
        f"EM_MEAN_DECAY={MEAN_DECAY}f",
    )


def result(arena: layout.Arena, block: NDArray[np.uint8]) -> BurstResult:
    """Take apart the block that `read` copies back, see `BurstKernels.read`."""
    counters = arena.view(block, "counters")[0]
    n, before, after = (int(x) for x in counters["recorded"])
    steps = int(counters["step"])
    # Without steps nothing has changed, so the labels after may be left out.
    complete = n == before == after or (n == before and after == steps == 0)
    if not (complete and n <= arena.window and steps <= arena.steps):
        raise ValueError(
            f"{n}, {before} and {after} frames deployed, before and after, {steps} steps: need as "
            f"many of each, at most {arena.window}, and at most {arena.steps} steps"
        )
    traces = arena.view(block, "traces")[:steps]
    label = arena.view(block, "label")[:, :n].astype(np.int64)
    confidence = arena.view(block, "confidence")[:, :n].astype(np.float64)
    twice_ranks = counters["weighted_flips"]
    return BurstResult(
        label=label,
        confidence=confidence,
        flipped=arena.view(block, "flipped")[:, :n].astype(bool),
        flips=(int(counters["flips"][0]), int(counters["flips"][1])),
        weighted_flips=(
            float(twice_ranks[0]) / (2 * max(n, 1)),
            float(twice_ranks[1]) / (2 * max(n, 1)),
        ),
        samples=traces["samples"].astype(np.int64),
        reliable=traces["reliable"].astype(np.int64),
        selected=traces["selected"].astype(np.int64),
        mean_entropy=traces["entropy"] / np.maximum(traces["samples"], 1),
        moved=traces["moved"].astype(bool),
        affine_change=float(counters["affine_change"]),
    )


def pycuda_driver() -> Any:
    """Return pycuda.driver.

    Raises:
        EdgewfError: it cannot be imported; says what to install.
    """
    try:
        import pycuda.driver
    except ImportError as error:
        raise EdgewfError(
            f"pycuda cannot be imported ({error}): pip install pycuda, which builds it with the "
            "CUDA toolkit (on Jetson: apt install nvidia-jetpack, and put /usr/local/cuda/bin "
            "on the PATH first); the driver's libcuda.so.1 has to be there too"
        ) from error
    return pycuda.driver
