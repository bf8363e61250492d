"""A GPU whose memory is host memory: the engines' own code, their graphs in ONNX Runtime's CPU
provider and the kernels of cuda_on_host."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgewf.engines import device as device_engine
from edgewf.engines import gpu as gpu_module
from edgewf.engines.device import DeviceEngine, DeviceGraph
from edgewf.engines.onnxruntime_gpu import SessionGraph
from edgewf.kernels import device as kernels
from tests.cuda_on_host import cubin, driver


class Log(list[str]):
    """What a test wants to know of the driver: allocations alive and waits, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.allocated = 0
        self.limit = float("inf")


class DriverError(Exception):
    """pycuda.driver.Error"""


class DriverMemoryError(DriverError, MemoryError):
    """pycuda.driver.MemoryError"""


class Allocation:
    def __init__(self, log: Log, memory: Any, size: int) -> None:
        self._log, self._memory, self._size = log, memory, size
        log.allocated += size

    def __int__(self) -> int:
        return int(self._memory)

    def free(self) -> None:
        assert self._memory is not None, "freed twice"
        self._memory = None
        self._log.allocated -= self._size

    def __del__(self) -> None:  # as pycuda's
        if self._memory is not None:
            self.free()


class HostGraph:
    """A recorded step: what was enqueued, enqueued again."""

    recorded = 0

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self.launch = enqueue
        HostGraph.recorded += 1

    def free(self) -> None:
        del self.launch


def use(patch: pytest.MonkeyPatch, *, integrated: bool = False) -> Log:
    """Let engines find this GPU; returns its log."""
    log = Log()
    base = driver()
    stack: list[str] = []

    def mem_alloc(size: int) -> Allocation:
        if log.allocated + size > log.limit:
            raise DriverMemoryError("cuMemAlloc failed: out of memory")
        assert stack, "no context is current"
        return Allocation(log, base.mem_alloc(size), size)

    def pagelocked_empty(shape: Any, dtype: Any, mem_flags: int = 0) -> Any:
        array = np.empty(shape, dtype)
        block = array.reshape(-1).view(np.uint8)
        return array if not mem_flags else mapped(block, array.shape, array.dtype)

    def copy(to: int, source: int, size: int) -> None:
        assert stack, "no context is current"
        ctypes.memmove(to, source, size)

    stream = SimpleNamespace(handle=7, synchronize=lambda: log.append("wait"))
    event = SimpleNamespace(
        record=lambda stream: None,
        query=lambda: False,
        synchronize=lambda: log.append("wait"),
        time_till=lambda later: 2.0,  # milliseconds
    )
    attributes = {
        "Error": DriverError,
        "MemoryError": DriverMemoryError,
        "init": lambda: None,
        "Device": lambda index: SimpleNamespace(
            name=lambda: "Host",
            compute_capability=lambda: (8, 7),
            get_attribute=lambda attribute: int(integrated),
            retain_primary_context=lambda: SimpleNamespace(push=lambda: stack.append("context")),
        ),
        "Context": SimpleNamespace(pop=stack.pop, get_device=base.Context.get_device),
        "device_attribute": SimpleNamespace(INTEGRATED=18),
        "host_alloc_flags": SimpleNamespace(DEVICEMAP=2),
        "event_flags": SimpleNamespace(DISABLE_TIMING=2),
        "Stream": lambda: stream,
        "Event": lambda flags=0: event,
        "mem_get_info": lambda: (1 << 20, 1 << 30),
        "mem_alloc": mem_alloc,
        "pagelocked_empty": pagelocked_empty,
        "memcpy_htod_async": lambda to, array, stream: copy(to, array.ctypes.data, array.nbytes),
        "memcpy_dtoh_async": lambda array, at, stream: copy(array.ctypes.data, at, array.nbytes),
    }
    stand_in = SimpleNamespace(**{**vars(base), **attributes})
    patch.setattr(gpu_module, "pycuda_driver", lambda: stand_in)
    patch.setattr(kernels, "pycuda_driver", lambda: stand_in)
    patch.setattr(kernels, "cubin", cubin)
    patch.setattr(device_engine, "CudaGraph", HostGraph)
    return log


class mapped(np.ndarray):  # noqa: N801
    """Pinned memory with the address that an integrated GPU reads it by."""

    def __new__(cls, block: Any, shape: Any, dtype: Any) -> Any:
        array = block.view(cls)

        class Base:
            @staticmethod
            def get_device_pointer() -> int:
                return int(block.ctypes.data)

        array._base = Base
        return array.view(dtype).reshape(shape)

    def __array_finalize__(self, parent: Any) -> None:
        self._base = getattr(parent, "_base", None)

    @property
    def base(self) -> Any:
        return self._base


class OnHost(DeviceEngine):
    """The burst of GPU engines on graphs that ONNX Runtime runs on the CPU."""

    name = "on-host"

    def load(self, name: str, batch: int) -> DeviceGraph:
        return SessionGraph(self.bundle.path(name), ["CPUExecutionProvider"], self.gpu, "cpu")


class Recording(OnHost):
    """The same, with steps recorded."""

    records_steps = True
