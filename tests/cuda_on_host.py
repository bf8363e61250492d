"""The CUDA kernels on the CPU: their own sources, built by the host's C++ compiler.

`driver()` stands in for pycuda.driver. Device memory is host memory, and a launch hands the packed
arguments to cuda_on_host.hpp, which runs every thread of every block, so that `BurstKernels`
works as on a GPU but for speed and hardware.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgewf.kernels import compiler

HERE = Path(__file__).parent
_BUILT = tempfile.TemporaryDirectory(prefix="edgewf-kernels-")


def host_compiler() -> str:
    """Return a C++ compiler, or skip the test."""
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("needs a C++ compiler (g++ or clang++)")
    return found


@functools.cache
def library(definitions: tuple[str, ...]) -> ctypes.CDLL:
    """Build the kernels with these macros; any warning is an error."""
    path = Path(_BUILT.name) / f"{abs(hash(definitions)):x}.so"
    command = [host_compiler(), "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{compiler.SOURCES}"]
    command += [f"-D{x}" for x in definitions]
    command += ["-o", str(path), str(HERE / "cuda_on_host.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = ctypes.CDLL(str(path))
    found.layout.restype = ctypes.c_long
    for name in ("float_of_half", "float_of_bfloat16"):
        getattr(found, name).restype = ctypes.c_float
        getattr(found, name).argtypes = [ctypes.c_ushort]
    for name in ("half_of_float", "bfloat16_of_float"):
        getattr(found, name).restype = ctypes.c_ushort
        getattr(found, name).argtypes = [ctypes.c_float]
    return found


class Function:
    """A kernel, launched the way BurstKernels launches it."""

    def __init__(self, library: ctypes.CDLL, name: str, *, backwards: bool) -> None:
        self._library, self._name, self._backwards = library, name, backwards
        self._format = ""

    def prepare(self, formats: tuple[str, ...]) -> Function:
        self._format = "".join(formats)
        return self

    def prepared_async_call(
        self, grid: tuple[int, int], block: tuple[int, int, int], stream: Any, *arguments: Any
    ) -> None:
        assert block[2] == 1
        packed = struct.pack(self._format, *arguments)
        size = ctypes.c_size_t(len(packed))
        status = self._library.launch(
            self._name.encode(), *grid, *block[:2], packed, size, int(self._backwards)
        )
        assert status == 0, f"no kernel {self._name}"


class Memory:
    """Device memory, on the host; aligned as cudaMalloc aligns."""

    UNTOUCHED = 0xAB  # nothing may count on zeros

    def __init__(self, size: int) -> None:
        self._block = np.full(size + 256, self.UNTOUCHED, np.uint8)

    def __int__(self) -> int:
        return -(-self._block.ctypes.data // 256) * 256


def device_array(values: NDArray[Any], shift: int = 0) -> NDArray[Any]:
    """Return a copy that begins `shift` bytes after a 256-byte boundary."""
    block = np.zeros(values.nbytes + 512, np.uint8)
    start = -block.ctypes.data % 256 + shift
    copy = block[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def cubin(architecture: str, definitions: tuple[str, ...]) -> bytes:
    """Stand in for compiler.cubin: `driver` builds these for the host."""
    return "\0".join(definitions).encode()


def driver(*, backwards: bool = False) -> Any:
    """Return what BurstKernels uses of pycuda.driver.

    Args:
        backwards: run the threads of a block, and the blocks, from last to first.
    """

    def copy(target: Any, source: Any, size: int) -> None:
        ctypes.memmove(target, source, size)

    def module(code: bytes) -> Any:
        built = library(tuple(code.decode().split("\0")))
        return SimpleNamespace(get_function=lambda name: Function(built, name, backwards=backwards))

    return SimpleNamespace(
        Error=RuntimeError,
        Context=SimpleNamespace(
            get_device=lambda: SimpleNamespace(compute_capability=lambda: (8, 7))
        ),
        mem_alloc=Memory,
        pagelocked_empty=np.empty,
        memcpy_htod=lambda to, array: copy(to, array.ctypes.data, array.nbytes),
        memcpy_dtoh=lambda array, at: copy(array.ctypes.data, at, array.nbytes),
        memcpy_dtoh_async=lambda array, at, stream: copy(array.ctypes.data, at, array.nbytes),
        module_from_buffer=module,
    )
