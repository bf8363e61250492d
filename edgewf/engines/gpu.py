"""The GPU as the engines use it: one context, one stream, memory, and frames on their way to it.

Nothing here waits for the GPU but `Gpu.wait` and a ring of frames that is full; both are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewf.engines import Images
from edgewf.errors import EdgewfError
from edgewf.kernels.device import pycuda_driver

# Pinned memory that the frames of a burst may take; a longer burst waits for its oldest batch.
STAGING_BYTES = 256 << 20


class Gpu:
    """The first GPU, in the context that CUDA's runtime, TensorRT and ONNX Runtime share.

    Attributes:
        name: as the driver calls it.
        compute_capability: such as "8.7".
        integrated: it shares its memory with the CPU, as on Jetson.
        stream: pycuda.driver.Stream of everything that an engine enqueues.
        waits: how often the host has waited for the GPU so far.
    """

    def __init__(self) -> None:
        """Take the GPU.

        Raises:
            EdgewfError: pycuda or the GPU is missing, or cannot be used.
        """
        self._cuda = cuda = pycuda_driver()
        try:
            cuda.init()
            device = cuda.Device(0)
            self._context = device.retain_primary_context()
        except cuda.Error as error:
            raise EdgewfError(
                f"the GPU cannot be used ({error}): `edgewf doctor` says what is missing"
            ) from error
        self.name: str = device.name()
        self.compute_capability = ".".join(map(str, device.compute_capability()))
        self.integrated = bool(device.get_attribute(cuda.device_attribute.INTEGRATED))
        self.waits = 0
        with self.current("making a stream"):
            self.stream: Any = cuda.Stream()

    @property
    def stream_handle(self) -> int:
        """CUstream of `stream`."""
        return int(self.stream.handle)

    @contextmanager
    def current(self, doing: str) -> Iterator[None]:
        """Make the context the calling thread's, and word what the driver complains of.

        Args:
            doing: what failed, if it fails.

        Raises:
            EdgewfError: out of memory, or a GPU that does not answer any more.
        """
        cuda = self._cuda
        try:
            self._context.push()
            try:
                yield
            except cuda.MemoryError as error:
                raise self.out_of_memory(doing) from error
            finally:
                cuda.Context.pop()
        except cuda.Error as error:
            raise EdgewfError(
                f"the GPU failed in {doing}: {error}; restart this process, and if it fails "
                "again look for Xid messages in `dmesg`"
            ) from error

    def out_of_memory(self, doing: str) -> EdgewfError:
        """Return the error that says so, with what is free; the context has to be current."""
        free, total = self.memory()
        return EdgewfError(
            f"the GPU is out of memory in {doing} ({free >> 20} of {total >> 20} MiB are free): "
            "use a smaller --batch-size, export with --memory low or --precision fp16, or end "
            "what else uses the GPU"
        )

    def memory(self) -> tuple[int, int]:
        """Return the bytes that are free and those there are; the context has to be current."""
        free, total = self._cuda.mem_get_info()
        return free, total

    def allocate(self, size: int) -> Memory:
        """Return `size` bytes of device memory; may wait for the GPU."""
        return Memory(self._cuda.mem_alloc(max(size, 1)), size)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return host memory that the GPU copies from and to without the host's help.

        On an integrated GPU it can be read in place, see `Frames`.
        """
        cuda = self._cuda
        flags = cuda.host_alloc_flags.DEVICEMAP if self.integrated else 0
        array: NDArray[Any] = cuda.pagelocked_empty(shape, dtype, mem_flags=flags)
        return array

    def mapped_address(self, array: NDArray[Any]) -> int:
        """Return where an integrated GPU reads a `pinned` array."""
        return int(array.base.get_device_pointer())  # type: ignore[union-attr]

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Enqueue a copy of a contiguous `pinned` array, which must stay until it is done."""
        self._cuda.memcpy_htod_async(address, array, self.stream)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Enqueue a copy to a contiguous `pinned` array."""
        self._cuda.memcpy_dtoh_async(array, address, self.stream)

    def mark(self) -> Any:
        """Return an event at what was enqueued last."""
        event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
        event.record(self.stream)
        return event

    def timestamp(self) -> Any:
        """Return an event that notes when the GPU has done what was enqueued so far."""
        event = self._cuda.Event()
        event.record(self.stream)
        return event

    def seconds_between(self, begin: Any, end: Any) -> float:
        """Return the time from one `timestamp` to a later one; the GPU has to be past both."""
        return float(begin.time_till(end)) / 1e3

    def wait(self, event: Any | None = None) -> None:
        """Wait until the GPU has reached an event, or has done everything."""
        self.waits += 1
        (self.stream if event is None else event).synchronize()


class Memory:
    """Device memory that is freed when it is said, not when Python gets to it."""

    def __init__(self, allocation: Any, size: int) -> None:
        self._allocation = allocation
        self.size = size
        self.address = int(allocation)

    def free(self) -> None:
        """Give it back; waits for the GPU."""
        self._allocation.free()


@dataclass
class _Slot:
    pixels: Images
    address: int
    read: Any | None = None


class Frames:
    """Batches of frames on their way to the GPU: a ring of pinned host memory.

    A discrete GPU gets each batch copied to one place; an integrated one reads it where it is.
    """

    def __init__(self, gpu: Gpu, batches: int, shape: tuple[int, ...]) -> None:
        """Allocate.

        Args:
            gpu: which gets the frames.
            batches: that should be under way at the same time; fewer if they take too much.
            shape: of the largest batch, [B, S, S, 3].
        """
        self._gpu = gpu
        size = int(np.prod(shape))
        count = max(1, min(batches, STAGING_BYTES // size))
        pixels = [gpu.pinned(shape, np.uint8) for _ in range(count)]
        self._memory = None if gpu.integrated else gpu.allocate(size)
        self._ring = [
            _Slot(x, gpu.mapped_address(x) if self._memory is None else self._memory.address)
            for x in pixels
        ]
        self._next = 0

    def rewind(self) -> None:
        """Begin with the first slot again, where the last burst's steps were recorded.

        Not before the GPU has read every batch.
        """
        self._next = 0
        for slot in self._ring:
            slot.read = None

    @contextmanager
    def staged(self, images: Images) -> Iterator[int]:
        """Yield the device address of uint8 [b, S, S, 3], for work that is enqueued inside."""
        slot = self._ring[self._next]
        self._next = (self._next + 1) % len(self._ring)
        if slot.read is not None and not slot.read.query():
            self._gpu.wait(slot.read)
        pixels = slot.pixels[: len(images)]
        np.copyto(pixels, images)
        if self._memory is not None:
            self._gpu.upload(slot.address, pixels)
        try:
            yield slot.address
        finally:
            slot.read = self._gpu.mark()

    def free(self) -> None:
        """Give the memory back."""
        if self._memory is not None:
            self._memory.free()
