"""Which engine runs: the one asked for, or the best that can run here.

Only the chosen engine's file is imported, and with it its runtime.
"""

from __future__ import annotations

import functools
import pkgutil
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from edgewf.bundle import Bundle
from edgewf.engines import Engine, Role
from edgewf.engines.cuda_devices import NoCudaError, cuda_driver
from edgewf.engines.tensorrt_builder import INSTALL, installed_module
from edgewf.errors import EdgewfError

AUTO = "auto"
_X86 = ("x86_64", "AMD64")


@dataclass(frozen=True)
class Lack:
    """What keeps an engine from running here, in a few words, and how to get it."""

    what: str
    fix: str


@dataclass(frozen=True)
class Candidate:
    """An engine by name.

    Attributes:
        name: as `--engine` spells it.
        description: one line.
        factory: "module:class"; the class is called with a bundle, a number of threads, which
            is None where the runtime may choose, and a role. Both mean nothing on a GPU.
        lacks: yields what is missing here, the cheapest to find out first; nothing if it can run.
        automatic: whether `auto` may choose it here.
    """

    name: str
    description: str
    factory: str
    lacks: Callable[[], Iterator[Lack]]
    automatic: bool = True


@dataclass(frozen=True)
class Selection:
    """A loaded engine and why it is this one."""

    engine: Engine
    reason: str

    def __str__(self) -> str:
        return f"engine {self.engine.name}: {self.reason}"


def select_engine(
    name: str, bundle: Bundle, threads: int | None = None, role: Role = Role.ALONE
) -> Selection:
    """Load an engine.

    Args:
        name: of a candidate, or "auto" for the first that can run and loads.
        bundle: what it shall run.
        threads: threads that an operator may use on the CPU; None leaves it to the runtime.
        role: what it runs beside.

    Raises:
        EdgewfError: an unknown name, or an engine that lacks something; says what and the fix.
    """
    if name == AUTO:
        return _automatic(bundle, threads, role)
    candidate = next((c for c in CANDIDATES if c.name == name), None)
    if candidate is None:
        known = ", ".join([AUTO, *(c.name for c in CANDIDATES)])
        raise EdgewfError(f"unknown engine {name!r}: use one of {known}")
    lacks = list(candidate.lacks())
    if lacks:
        raise EdgewfError(
            f"engine {name} cannot run here: {'; '.join(f'{x.what}: {x.fix}' for x in lacks)}; "
            "or let --engine auto choose"
        )
    return Selection(_load(candidate, bundle, threads, role), "as asked for")


def _automatic(bundle: Bundle, threads: int | None, role: Role) -> Selection:
    refused: dict[str, list[str]] = {}  # names by reason
    *others, last = [c for c in CANDIDATES if c.automatic]
    for candidate in others:
        lack = next(candidate.lacks(), None)
        if lack is not None:
            refused.setdefault(lack.what, []).append(candidate.name)
            continue
        try:
            return Selection(_load(candidate, bundle, threads, role), _why(refused))
        except EdgewfError as error:  # it looked complete, and still does not take this bundle
            refused.setdefault(str(error), []).append(candidate.name)
    return Selection(_load(last, bundle, threads, role), _why(refused))


def _why(refused: dict[str, list[str]]) -> str:
    if not refused:
        return "the fastest"
    reasons = "; ".join(f"{', '.join(names)}: {why}" for why, names in refused.items())
    return f"the fastest that can run here ({reasons})"


def _load(candidate: Candidate, bundle: Bundle, threads: int | None, role: Role) -> Engine:
    engine: Engine = pkgutil.resolve_name(candidate.factory)(bundle, threads, role)
    return engine


def _gpu() -> Iterator[Lack]:
    try:
        cuda_driver()
    except NoCudaError as error:
        yield Lack(error.what, error.fix)
    if find_spec("pycuda") is None:
        yield Lack("no pycuda", "pip install pycuda (builds from source; needs nvcc on the PATH)")


def _tensorrt() -> Iterator[Lack]:
    yield from _gpu()
    if installed_module() is None:
        yield Lack("no TensorRT module", INSTALL)


def _provider(name: str) -> Iterator[Lack]:
    yield from _gpu()
    import onnxruntime

    if name not in onnxruntime.get_available_providers():
        yield Lack(
            f"ONNX Runtime {onnxruntime.__version__} has no {name}",
            "pip uninstall onnxruntime, then pip install 'edgewf[gpu]'",
        )


def _openvino() -> Iterator[Lack]:
    if find_spec("openvino") is None:
        yield Lack("OpenVINO is not installed", "pip install 'edgewf[openvino]'")


def _nothing() -> Iterator[Lack]:
    yield from ()


CANDIDATES = (
    Candidate(
        "tensorrt",
        "TensorRT on an NVIDIA GPU",
        "edgewf.engines.tensorrt:TensorRT",
        _tensorrt,
    ),
    Candidate(
        "ort-tensorrt",
        "ONNX Runtime with TensorRT on an NVIDIA GPU",
        "edgewf.engines.onnxruntime_gpu:OnnxRuntimeTensorRT",
        functools.partial(_provider, "TensorrtExecutionProvider"),
    ),
    Candidate(
        "ort-cuda",
        "ONNX Runtime with CUDA on an NVIDIA GPU",
        "edgewf.engines.onnxruntime_gpu:OnnxRuntimeCUDA",
        functools.partial(_provider, "CUDAExecutionProvider"),
    ),
    Candidate(
        "openvino",
        "OpenVINO on the CPU",
        "edgewf.engines.openvino_cpu:OpenVINOCPU",
        _openvino,
        automatic=platform.machine() in _X86,  # measured there alone
    ),
    Candidate(
        "onnxruntime",
        "ONNX Runtime on the CPU",
        "edgewf.engines.onnxruntime_cpu:OnnxRuntimeCPU",
        _nothing,
    ),
)
"""Best first; the last runs everywhere."""
