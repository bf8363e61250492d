"""What the time of a step goes to, by kind of operator, as each runtime's own profiler sees it.

    python -m benchmarks.latency.profile BUNDLE ENGINE BATCH THREADS

prints it as JSON. A profiler slows a step down a little; shares are what counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.pictures import photographs, pieces
from edgewf.bundle import Bundle
from edgewf.engines import Float32
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.kernels.reference import Objective, em_objective

ENGINES = ("openvino", "onnxruntime")
KINDS = ("convolutions", "reductions", "elementwise", "layouts and copies", "others")

_WARM_UP = 2
_STEPS = 5
# By the names of ONNX's operators and of OpenVINO's layer types, in small letters.
_CONVOLUTIONS = ("conv", "gemm", "matmul", "fullyconnected", "deconv")
_REDUCTIONS = ("reduce", "pool", "softmax")
_LAYOUTS = ("reorder", "transpose", "concat", "split", "pad", "slice", "gather", "scatter", "copy")
_LAYOUTS += ("reshape", "expand", "tile", "broadcast", "squeeze", "flatten", "space", "interpolate")
_ELEMENTWISE = ("add", "mul", "sub", "div", "relu", "clip", "sigmoid", "sqrt", "pow", "max", "min")
_ELEMENTWISE += ("exp", "erf", "neg", "cast", "convert", "eltwise", "subgraph", "where", "less")
_ELEMENTWISE += ("greater", "equal", "math", "swish", "clamp", "recip", "floor", "and", "not")


@dataclass(frozen=True)
class Profile:
    """Of one step.

    Attributes:
        seconds: of the whole step, while it was profiled.
        kinds: seconds by kind of operator, see `KINDS`.
        operators: seconds of the ten operators that took most, by name.
        numpy: seconds outside of the runtime's operators. OpenVINO counts the objective as one.
    """

    seconds: float
    kinds: dict[str, float]
    operators: dict[str, float]
    numpy: float


def profile(bundle: Bundle, engine: str, batch: int, threads: int) -> Profile:
    """Profile a step in a process of its own: threads of one runtime disturb another's."""
    command = [sys.executable, "-m", "benchmarks.latency.profile"]
    order = [str(bundle.folder), engine, str(batch), str(threads)]
    done = subprocess.run([*command, *order], check=True, capture_output=True, text=True)
    return Profile(**json.loads(done.stdout.splitlines()[-1]))


def kind_of(operator: str) -> str:
    """Sort an operator of ONNX or a layer type of OpenVINO."""
    name = operator.lower()
    for kind, words in zip(
        KINDS, (_CONVOLUTIONS, _REDUCTIONS, _ELEMENTWISE, _LAYOUTS), strict=False
    ):
        if any(word in name for word in words):
            return kind
    return KINDS[-1]


def _objective(logits: Float32) -> Float32:
    return em_objective(logits, Objective(), None).dlogits


def _summary(times: dict[str, float], seconds: float) -> Profile:
    kinds = dict.fromkeys(KINDS, 0.0)
    for operator, spent in times.items():
        kinds[kind_of(operator)] += spent
    most = sorted(times.items(), key=lambda item: -item[1])[:10]
    return Profile(seconds, kinds, dict(most), max(0.0, seconds - sum(times.values())))


class _Profiled(OnnxRuntimeCPU):
    """The engine, with ONNX Runtime's profiler on."""

    def _session(self, name: str) -> ort.InferenceSession:
        if name not in ("forward.onnx", "backward.onnx"):
            return super()._session(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.gettempdir()) / f"edgewf-{os.getpid()}")
        path = os.fspath(self.bundle.path(name))
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def times(self) -> dict[str, float]:
        """Return the seconds of each operator in the last `_STEPS` of all runs."""
        found: dict[str, float] = defaultdict(float)
        for session in (self._forward, self._backward):
            file = Path(session.end_profiling())
            events = json.loads(file.read_text())
            file.unlink()
            runs = [e["ts"] for e in events if e["name"] == "model_run"]
            begin = sorted(runs)[-_STEPS]
            for event in events:
                if event["cat"] == "Node" and event["ts"] >= begin:
                    name = event["args"].get("op_name")
                    if name and event["name"].endswith("kernel_time"):
                        found[name] += event["dur"] * 1e-6
        return {name: seconds / _STEPS for name, seconds in found.items()}


def _onnxruntime(bundle: Bundle, batch: int, threads: int) -> Profile:
    engine = _Profiled(bundle, threads)
    seconds = _timed(bundle, batch, lambda images: engine.gradient(images, _objective))
    return _summary(engine.times(), seconds)


def _openvino(bundle: Bundle, batch: int, threads: int) -> Profile:
    from edgewf.engines.openvino_cpu import OpenVINOCPU

    engine = OpenVINOCPU(bundle, threads)
    engine._config["PERF_COUNT"] = True
    found: dict[str, float] = defaultdict(float)
    calls = 0

    def step(images: Any) -> None:
        nonlocal calls
        engine.gradient(images, _objective)
        calls += 1
        if calls not in (_WARM_UP, _WARM_UP + _STEPS):
            return
        # What OpenVINO returns are means over all calls so far, and the first one is slow.
        sign = -1 if calls == _WARM_UP else 1
        for layer in engine._request("step", batch).get_profiling_info():
            found[layer.node_type] += sign * calls * layer.real_time.total_seconds() / _STEPS

    seconds = _timed(bundle, batch, step)
    return _summary(dict(found), seconds)


def _timed(bundle: Bundle, batch: int, step: Callable[[Any], object]) -> float:
    images = pieces(photographs(), bundle.manifest.preprocessing, batch)
    times = []
    for _ in range(_WARM_UP + _STEPS):
        begin = time.perf_counter()
        step(images)
        times.append(time.perf_counter() - begin)
    return float(np.mean(times[_WARM_UP:]))


def main(folder: str, engine: str, batch: str, threads: str) -> None:
    run = {"openvino": _openvino, "onnxruntime": _onnxruntime}[engine]
    print(json.dumps(asdict(run(Bundle.load(folder), int(batch), int(threads)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
