"""CUDA graphs: record what is enqueued on a stream once, then launch all of it with one call.

Asked of the driver through ctypes, as pycuda has no graphs. The functions are those of the CUDA
Driver API, since 11.4.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from edgewf.errors import EdgewfError

_LIBRARY = "libcuda.so.1"
# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile.
_THREAD_LOCAL = 1


class CudaGraph:
    """Work that was recorded on a stream and can be launched again and again.

    The addresses that the work reads and writes are part of it. The CUDA context of the stream
    has to be current in every call.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        """Record, without running it, what `enqueue` puts on the stream.

        Args:
            stream: CUstream handle; not the default stream.
            enqueue: only enqueues: whatever waits or allocates makes the recording fail.

        Raises:
            EdgewfError: something in `enqueue` cannot be recorded.
        """
        self._driver = ctypes.CDLL(_LIBRARY)
        self._stream = ctypes.c_void_p(stream)
        recorded, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:  # the stream must not stay in capture
            self._driver.cuStreamEndCapture(self._stream, ctypes.byref(recorded))
            self._driver.cuGraphDestroy(recorded)
            raise
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(recorded))
        try:
            self._call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(self._executable),
                recorded,
                ctypes.c_ulonglong(0),
            )
        finally:
            self._driver.cuGraphDestroy(recorded)

    def launch(self) -> None:
        """Enqueue all of it."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def free(self) -> None:
        """Give its memory back; it cannot be launched any more."""
        self._call("cuGraphExecDestroy", self._executable)

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status:
            name = ctypes.c_char_p()
            self._driver.cuGetErrorName(status, ctypes.byref(name))
            raise EdgewfError(
                f"the GPU failed in {function}: {(name.value or b'unknown error').decode()}; "
                "restart this process, and if it fails again use --engine ort-cuda or a CPU engine"
            )
