"""What the CUDA driver says of the GPUs here, asked through ctypes: no CUDA package is needed.

The functions are those of the CUDA Driver API; Jetson has the same library and no nvidia-smi.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from edgewf.errors import EdgewfError

_LIBRARY = "libcuda.so.1"
# CUdevice_attribute
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76


@dataclass(frozen=True)
class CudaDevice:
    """One GPU.

    Attributes:
        name: as the driver calls it.
        compute_capability: such as "8.7".
        memory: bytes.
        integrated: shares its memory with the CPU, as on Jetson.
    """

    name: str
    compute_capability: str
    memory: int
    integrated: bool


@dataclass(frozen=True)
class CudaDriver:
    """The driver and its devices.

    Attributes:
        cuda: newest CUDA version that the driver runs, such as "12.6".
        devices: in CUDA's order, which CUDA_VISIBLE_DEVICES changes.
    """

    cuda: str
    devices: tuple[CudaDevice, ...]


class NoCudaError(EdgewfError):
    """No driver, no device, or a driver that refuses: what is wrong, and the fix."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}: {fix}")
        self.what = what
        self.fix = fix


def cuda_driver() -> CudaDriver:
    """Ask the driver.

    Raises:
        NoCudaError: CUDA cannot be used.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise NoCudaError(
            f"no NVIDIA driver ({_LIBRARY} is not there)",
            "install the driver of your GPU; in a container, pass the GPU in "
            "(docker run --gpus all, on Jetson --runtime nvidia)",
        ) from error

    def call(function: str, *arguments: object) -> None:
        status = getattr(library, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            library.cuGetErrorName(status, ctypes.byref(text))
            reason = (text.value or b"unknown error").decode()
            raise NoCudaError(
                f"the CUDA driver fails ({function}: {reason})",
                "see whether nvidia-smi finds the GPU, CUDA_VISIBLE_DEVICES hides it, or this "
                "user may not open /dev/nvidia* (on Jetson: join the groups video and render)",
            )

    def integer(function: str, *arguments: object) -> int:
        value = ctypes.c_int()
        call(function, ctypes.byref(value), *arguments)
        return value.value

    call("cuInit", 0)
    version = integer("cuDriverGetVersion")
    devices = []
    for index in range(integer("cuDeviceGetCount")):
        device = integer("cuDeviceGet", index)
        name = ctypes.create_string_buffer(256)
        call("cuDeviceGetName", name, len(name), device)
        memory = ctypes.c_size_t()
        call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        major, minor, integrated = (
            integer("cuDeviceGetAttribute", attribute, device)
            for attribute in (_MAJOR, _MINOR, _INTEGRATED)
        )
        devices.append(
            CudaDevice(name.value.decode(), f"{major}.{minor}", memory.value, bool(integrated))
        )
    return CudaDriver(f"{version // 1000}.{version % 1000 // 10}", tuple(devices))
