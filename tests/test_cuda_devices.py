"""The questions to the CUDA driver, answered by a small library of the same interface."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgewf.engines import cuda_devices
from edgewf.engines.cuda_devices import CudaDevice, CudaDriver, NoCudaError, cuda_driver

# A driver for CUDA 12.6 with a Jetson's GPU and a desktop's; prototypes as in cuda.h.
DRIVER = r"""
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return flags == 0 ? INIT : 1; }
int cuGetErrorName(int error, const char **name) {
    if (error != 100) return 1;
    *name = "CUDA_ERROR_NO_DEVICE";
    return 0;
}
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 5; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 5 ? "Orin" : "NVIDIA GeForce RTX 4090", length);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = device == 5 ? 7990116352ull : 25757220864ull;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int jetson = device == 5;
    if (attribute == 75) *value = 8;
    else if (attribute == 76) *value = jetson ? 7 : 9;
    else if (attribute == 18) *value = jetson;
    else return 1;
    return 0;
}
"""


def use_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, init: int) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the library that stands for the driver")
    source, library = folder / "driver.c", folder / f"libdriver{init}.so"
    source.write_text(DRIVER)
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-DINIT={init}", "-o", library, source], check=True
    )
    monkeypatch.setattr(cuda_devices, "_LIBRARY", str(library))


def test_version_and_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(tmp_path, monkeypatch, init=0)
    assert cuda_driver() == CudaDriver(
        "12.6",
        (
            CudaDevice("Orin", "8.7", 7990116352, integrated=True),
            CudaDevice("NVIDIA GeForce RTX 4090", "8.9", 25757220864, integrated=False),
        ),
    )


@pytest.mark.parametrize(
    ("status", "reason"), [(100, "CUDA_ERROR_NO_DEVICE"), (999, "unknown error")]
)
def test_a_driver_that_refuses_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, reason: str
) -> None:
    use_driver(tmp_path, monkeypatch, init=status)
    with pytest.raises(NoCudaError, match=rf"driver fails \(cuInit: {reason}\): see whether"):
        cuda_driver()


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_devices, "_LIBRARY", "libedgewf_no_such_driver.so")
    with pytest.raises(NoCudaError, match=r"no NVIDIA driver .* install the driver"):
        cuda_driver()
