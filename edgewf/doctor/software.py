"""Runtimes, compilers and OpenCV: versions, and why one that is installed does not load."""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgewf.doctor.files import output
from edgewf.engines.tensorrt_builder import installed_module

_CUDA_HOME = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))


def software() -> dict[str, Any]:
    """Describe each piece as {"version", "problem"} or {"version", "path"}; None if absent."""
    onnxruntime, opencv = module("onnxruntime"), module("cv2")
    providers: list[str] = []
    gstreamer = None
    if onnxruntime is not None and onnxruntime["problem"] is None:
        providers = list(importlib.import_module("onnxruntime").get_available_providers())
    if opencv is not None and opencv["problem"] is None:
        gstreamer = gstreamer_support(importlib.import_module("cv2").getBuildInformation())
    tensorrt = installed_module()
    return {
        "onnxruntime": onnxruntime,
        "providers": providers,
        "openvino": module("openvino"),
        "tensorrt": None if tensorrt is None else {"module": tensorrt, **(module(tensorrt) or {})},
        "pycuda": module("pycuda", probe="pycuda.driver"),
        "nvcc": compiler("nvcc", r"release [\d.]+, V([\d.]+)", _CUDA_HOME / "bin"),
        "nvrtc": nvrtc(),
        "g++": compiler("g++", r"\) ([\d.]+)"),
        "opencv": opencv,
        "gstreamer": gstreamer,
    }


def module(name: str, probe: str | None = None) -> dict[str, str | None] | None:
    """Import a module and return its version, or what hinders the import.

    Args:
        name: of the module that has the version.
        probe: a submodule that must load as well.
    """
    if find_spec(name) is None:
        return None
    try:
        loaded = importlib.import_module(name)
        importlib.import_module(probe or name)
    except Exception as error:  # a broken binary module raises whatever it likes
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return {"version": None, "problem": reason[0]}
    version = getattr(loaded, "__version__", None) or getattr(loaded, "VERSION_TEXT", None)
    # OpenVINO appends its commit: 2026.4.1-22982-e213a147257-releases/2026/4
    return {"version": version and str(version).split("-")[0], "problem": None}


def compiler(name: str, pattern: str, *folders: Path) -> dict[str, str | None] | None:
    """Find a compiler on the PATH or in `folders` and ask for its version."""
    path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
    if path is None:
        return None
    match = re.search(pattern, output(path, "--version"))
    return {"version": None if match is None else match[1], "path": path}


def nvrtc() -> dict[str, str | None] | None:
    """Find CUDA's runtime compiler: of the system, the toolkit, or a wheel from NVIDIA."""
    wheels = Path(sysconfig.get_paths()["platlib"]) / "nvidia"
    found = [*_CUDA_HOME.glob("lib64/libnvrtc.so*"), *wheels.glob("*/lib/libnvrtc.so*")]
    for name in ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", *sorted(map(str, found))):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        major, minor = ctypes.c_int(), ctypes.c_int()
        if library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0:
            return {"version": f"{major.value}.{minor.value}", "path": name}
    return None


def gstreamer_support(build_information: str) -> str | None:
    """Return GStreamer's version from cv2.getBuildInformation(), None if OpenCV is without."""
    match = re.search(r"^\s*GStreamer:\s+YES(?:\s+\(([\d.]+)\))?", build_information, re.MULTILINE)
    return None if match is None else match[1] or "yes"
