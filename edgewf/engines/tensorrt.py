"""TensorRT on an NVIDIA GPU: plans built once, a whole step in one CUDA graph."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from edgewf.bundle import Bundle
from edgewf.engines import Role
from edgewf.engines.device import DeviceEngine, DeviceGraph, Tensor
from edgewf.engines.gpu import Gpu, Memory
from edgewf.engines.tensorrt_builder import INSTALL, PlanBuilder, error_log, installed_module
from edgewf.engines.tensorrt_plans import batches_for, build_plans, plan_path, target_here
from edgewf.errors import EdgewfError


class TensorRT(DeviceEngine):
    """Runs a bundle with TensorRT or TensorRT for RTX, whichever is installed."""

    name = "tensorrt"
    records_steps = True

    def __init__(self, bundle: Bundle, threads: int | None = None, role: Role = Role.ALONE) -> None:
        """Build the plans that are not there, which may take minutes, and load the deployed one.

        Args:
            bundle: a checked bundle.
            threads, role: mean nothing here.

        Raises:
            EdgewfError: the GPU, TensorRT or pycuda is missing, TensorRT refuses a graph, or the
                GPU has no room.
        """
        gpu = Gpu()
        self._runtime = Runtime(gpu)
        super().__init__(bundle, gpu)

    @property
    def scratch_address(self) -> int:
        return self._runtime.scratch.address

    def load(self, name: str, batch: int) -> DeviceGraph:
        batches, target = batches_for(self.bundle, batch), self._runtime.target
        path = plan_path(self.bundle, name, batches, target)
        if not path.is_file():
            console = Console(stderr=True)
            with console.status("building TensorRT engines (`edgewf build` does it ahead of time)"):
                build_plans(
                    self.bundle, batches, target, self._runtime.builder, lambda *progress: None
                )
        return self._runtime.load(path)


class Runtime:
    """TensorRT as far as it runs plans.

    Attributes:
        target: what plans have to be built for.
        gpu: where they run.
        scratch: memory for activations, which plans use one after the other.
    """

    def __init__(self, gpu: Gpu) -> None:
        """Load the first TensorRT module that is installed.

        Raises:
            EdgewfError: there is none, or it does not load.
        """
        self._module = installed_module()
        if self._module is None:
            raise EdgewfError(f"no TensorRT module is installed: {INSTALL}")
        try:
            self.trt: Any = importlib.import_module(self._module)
            self.log = error_log(self.trt)
            with gpu.current("starting TensorRT"):
                self._runtime = self.trt.Runtime(self.log)
        except (ImportError, OSError, RuntimeError, TypeError) as error:
            raise EdgewfError(
                f"{self._module} is installed and does not load ({error}): {INSTALL}"
            ) from error
        self.target = target_here(f"{self._module} {self.trt.__version__}")
        self.gpu = gpu
        self.scratch = Scratch(gpu)

    def builder(self) -> PlanBuilder:
        """Return a builder of plans for this runtime."""
        assert self._module is not None
        return PlanBuilder((self._module,))

    def load(self, path: Path) -> PlanGraph:
        """Load a plan.

        Raises:
            EdgewfError: it is damaged or of another machine, or the GPU has no room.
        """
        self.log.complaints.clear()
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise self.failure(
                f"{path}: {self.target.tensorrt} cannot load it on {self.gpu.name}",
                "it is damaged or was built elsewhere: build it again with `edgewf build --force`",
            )
        return PlanGraph(self, engine, path)

    def failure(self, what: str, fix: str) -> EdgewfError:
        """Return the error for a call that failed, with the reason that TensorRT logged."""
        reason = self.log.complaints[-1] if self.log.complaints else "no reason given"
        if "out of memory" in reason.lower() or "outofmemory" in reason.lower():
            return self.gpu.out_of_memory(what)
        return EdgewfError(f"{what} ({reason}); {fix}")


class Scratch:
    """Memory for activations, shared by plans that run one after the other on one stream."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._memory: Memory | None = None

    @property
    def address(self) -> int:
        """Where it lies; 0 before anyone needed it."""
        return 0 if self._memory is None else self._memory.address

    @property
    def size(self) -> int:
        """Bytes."""
        return 0 if self._memory is None else self._memory.size

    def reserve(self, size: int) -> None:
        """Grow to `size` bytes, which moves it; what is there stays if there is no room."""
        if size <= self.size:
            return
        old, self._memory = self._memory, self._gpu.allocate(size)
        if old is not None:
            old.free()


class PlanGraph:
    """A plan with one execution context, see `edgewf.engines.device.DeviceGraph`."""

    def __init__(self, runtime: Runtime, engine: Any, path: Path) -> None:
        self._runtime, self._engine, self._path = runtime, engine, path
        trt = runtime.trt
        self.tensors: Mapping[str, Tensor] = {
            name: Tensor(
                np.dtype(trt.nptype(engine.get_tensor_dtype(name))),
                tuple(None if n == -1 else int(n) for n in engine.get_tensor_shape(name)),
            )
            for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors))
        }
        self._inputs = [
            name for name in self.tensors if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        ]
        self._context = self._checked("make a context", _context(trt, engine))
        self._batch = 0
        self._scratch = (0, 0)

    def prepare(self, batch: int) -> None:
        if batch != self._batch:
            for name in self._inputs:
                shape = self.tensors[name].fixed(batch)
                self._checked(
                    f"take a batch of {batch}", self._context.set_input_shape(name, shape)
                )
            self._runtime.scratch.reserve(self._context.update_device_memory_size_for_shapes())
            self._batch = batch
        scratch = self._runtime.scratch
        if self._scratch != (scratch.address, scratch.size):
            self._context.set_device_memory(scratch.address, scratch.size)
            self._scratch = scratch.address, scratch.size

    def enqueue(self, batch: int, addresses: Mapping[str, int]) -> None:
        self.prepare(batch)
        for name in self.tensors:
            self._context.set_tensor_address(name, addresses[name])
        stream = self._runtime.gpu.stream_handle
        self._checked("run", self._context.execute_async_v3(stream))

    def free(self) -> None:
        del self._context, self._engine

    def _checked(self, what: str, result: Any) -> Any:
        """Return the result of a call that says None or False when it fails."""
        if result is None or result is False:
            raise self._runtime.failure(
                f"{self._path}: TensorRT cannot {what}",
                "restart this process, and if it fails again run `edgewf build --force`",
            )
        return result


def _context(trt: Any, engine: Any) -> Any:
    """Return an execution context without memory of its own, None if TensorRT makes none."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context(strategy)
    # TensorRT for RTX compiles kernels here. By default it would go on compiling better ones
    # while others run, and two bursts on the same frames would differ.
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    return engine.create_execution_context(config)
