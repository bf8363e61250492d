"""The CUDA kernels on a GPU: are they right, and how fast?

    python -m benchmarks.gpu.kernels [--only NAME]

prints one JSON object a check. A check that cannot run says so under "skipped"; one that ran has
"passed". Sizes are B samples of K classes, times are medians.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines.cuda_devices import cuda_driver
from edgewf.errors import EdgewfError
from edgewf.kernels import layout, reference
from edgewf.kernels.device import C_TYPES, BurstKernels, FloatType, Mode
from edgewf.kernels.reference import Objective
from tests.hard_rows import hard_rows

Record = dict[str, Any]
Array = NDArray[Any]

TENT = Objective()
CLASSES = (2, 3, 10, 33, 100, 257, 1000, 1001, 4096, 8192, 8193, 21_841, 65_536)
BATCHES = (1, 7, 64)
PAIRS: tuple[tuple[FloatType, FloatType], ...] = (
    ("float32", "float32"),
    ("float32", "float16"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
)
# (B, K) of at least 4 M elements.
LARGE = ((4096, 1000), (4096, 1001), (16_384, 1000), (40_960, 100), (1024, 4096), (192, 21_841))
SMALL = (64, 1000)
BANDWIDTH_TARGET = 0.85  # of a device-to-device copy of as many bytes
LATENCY_TARGET = 1.2  # times an empty kernel's launch to finish
EAGER_TARGET = 8.0  # times as fast as PyTorch eager
TOLERANCE: dict[FloatType, float] = {"float32": 2e-5, "float16": 1e-3, "bfloat16": 8e-3}


@dataclass(frozen=True)
class Gpu:
    """A context on the first GPU.

    Attributes:
        cuda: the module pycuda.driver.
        stream: of everything measured.
    """

    cuda: Any
    stream: Any

    def upload(self, x: Array) -> Any:
        memory = self.cuda.mem_alloc(max(x.nbytes, 1))
        self.cuda.memcpy_htod(int(memory), np.ascontiguousarray(x))
        return memory

    def download(self, memory: Any, like: Array) -> Array:
        out = np.empty_like(like)
        self.cuda.memcpy_dtoh_async(out, int(memory), self.stream)
        self.stream.synchronize()
        return out


@functools.cache
def open_gpu() -> Gpu:
    """Open the first GPU's primary context, the one PyTorch uses too.

    Raises:
        EdgewfError: there is no GPU, no driver or no pycuda.
    """
    cuda_driver()
    try:
        import pycuda.autoprimaryctx  # makes the context current
        import pycuda.driver
    except ImportError as error:
        raise EdgewfError(f"pycuda cannot be imported ({error}): pip install pycuda") from error
    return Gpu(pycuda.driver, pycuda.driver.Stream())


def eata(K: int) -> Objective:
    return Objective(0.8 * math.log(K), 0.9, weighted=True)


def make(
    gpu: Gpu,
    K: int,
    window: int,
    logits: FloatType = "float32",
    dlogits: FloatType = "float32",
    loss_scale: float = 1.0,
) -> BurstKernels:
    return BurstKernels(
        np.ones(1000, np.float32),
        classes=K,
        window=window,
        steps=8,
        logits_dtype=logits,
        dlogits_dtype=dlogits,
        loss_scale=loss_scale,
        stream=gpu.stream,
    )


def stored(x: Array, dtype: FloatType) -> tuple[Array, Array]:
    """Return the bits that go to the device, and the numbers they are."""
    if dtype == "bfloat16":
        bits = (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return bits, loaded(bits, dtype)
    with np.errstate(over="ignore"):
        held = np.asarray(x, dtype)
    return held, held


def loaded(bits: Array, dtype: FloatType) -> Array:
    if dtype == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits


def empty_like(shape: tuple[int, ...], dtype: FloatType) -> Array:
    return np.zeros(shape, np.uint16 if dtype == "bfloat16" else dtype)


def compare(
    gpu: Gpu, x: Array, logits: FloatType, dlogits: FloatType, objective: Objective
) -> list[str]:
    """Run two steps and a labelling of the same batch; return what differs from the reference."""
    B, K = x.shape
    scale = 1.0 if dlogits == "float32" else 128.0
    burst = make(gpu, K, B, logits, dlogits, scale)
    burst.reset(objective, learning_rate=0.01, momentum=0.9)
    bits, held = stored(x, logits)
    device_logits, out = gpu.upload(bits), empty_like(x.shape, dlogits)
    device_out = gpu.upload(out)
    gradient = gpu.upload(np.ones(1000, np.float32))
    problems, mean = [], None
    for mode in (Mode.DEPLOYED, Mode.BEFORE):
        burst.objective(mode, int(device_logits), B)
    burst.rank_weights()
    rows = []
    for step in range(2):
        burst.objective(Mode.STEP, int(device_logits), B, int(device_out))
        burst.reduce(int(device_logits), B)
        burst.update(int(gradient))
        with np.errstate(all="ignore"):
            rows.append(reference.em_objective(held, objective, mean))
        _, mean = reference.em_reduce(rows[-1], mean)
        found = loaded(gpu.download(device_out, out), dlogits).astype(np.float64)
        expected = scale * rows[-1].dlogits.astype(np.float64)
        digits = TOLERANCE[dlogits]
        # A row by its largest gradient; the smallest 16-bit numbers are 6e-8 apart.
        room = digits * np.maximum(abs(expected).max(axis=1, keepdims=True), 1e-8) + (
            0 if dlogits == "float32" else 6e-8
        )
        with np.errstate(over="ignore"):
            fits = abs(expected) < 6e4
        if (abs(found - expected) > room)[fits].any() or np.isnan(found).any():
            problems.append(f"gradient of step {step}")
    burst.objective(Mode.AFTER, int(device_logits), B)
    seen = burst.read()
    if (seen.label != rows[0].label).any():
        problems.append("label")
    if not np.allclose(seen.confidence, rows[0].confidence, rtol=1e-5, atol=0, equal_nan=True):
        problems.append("confidence")
    if seen.flips != (0, 0):
        problems.append("flips of the same batch")
    if seen.reliable.tolist() != [r.reliable.sum() for r in rows]:
        problems.append("reliable")
    if seen.selected.tolist() != [r.selected.sum() for r in rows]:
        problems.append("selected")
    entropy = [r.entropy.mean() for r in rows]
    if not np.allclose(seen.mean_entropy, entropy, rtol=1e-5, atol=1e-9, equal_nan=True):
        problems.append("entropy")
    return problems


def correctness(
    gpu: Gpu,
    classes: tuple[int, ...] = CLASSES,
    batches: tuple[int, ...] = BATCHES,
    pairs: tuple[tuple[FloatType, FloatType], ...] = PAIRS,
) -> Record:
    """Compare with reference.py over sizes, types and objectives, hard rows included."""
    rng = np.random.default_rng(0)
    failures, cases = [], 0
    for K in classes:
        inputs = [4 * math.sqrt(math.log(K)) * rng.normal(size=(B, K)) for B in batches]
        inputs += [hard_rows(K)] if K > 2 else []
        for x in inputs:
            for logits, dlogits in pairs:
                for objective in (TENT, eata(K)):
                    cases += 1
                    problems = compare(gpu, x, logits, dlogits, objective)
                    if problems:
                        where = f"B {len(x)}, K {K}, {logits} to {dlogits}"
                        failures.append(f"{where}: {', '.join(problems)}")
    return {"cases": cases, "failures": failures, "passed": not failures}


def reproducibility(gpu: Gpu, B: int = 64, K: int = 1000, runs: int = 20) -> Record:
    """Run the same burst again and again; every bit of state and result has to be the same."""
    rng = np.random.default_rng(0)
    batches = [gpu.upload((6 * rng.normal(size=(B, K))).astype(np.float32)) for _ in range(4)]
    gradients = [gpu.upload(rng.normal(size=1000).astype(np.float32)) for _ in batches]
    out = gpu.upload(np.zeros((B, K), np.float32))
    burst = make(gpu, K, B)
    states = set()
    for _ in range(runs):
        burst.reset(eata(K), learning_rate=0.01, momentum=0.9)
        for mode in (Mode.DEPLOYED, Mode.BEFORE):
            burst.objective(mode, int(batches[0]), B)
        burst.rank_weights()
        for x, gradient in zip(batches, gradients, strict=True):
            burst.objective(Mode.STEP, int(x), B, int(out))
            burst.reduce(int(x), B)
            burst.update(int(gradient))
        burst.objective(Mode.AFTER, int(batches[1]), B)
        seen = burst.read()
        dlogits = gpu.download(out, np.zeros((B, K), np.float32))
        affine = np.empty(1000, np.float32)
        gpu.cuda.memcpy_dtoh(affine, burst.affine_ptr)
        parts = [getattr(seen, name) for name in seen.__dataclass_fields__]
        states.add(b"".join(np.asarray(p).tobytes() for p in (*parts, dlogits, affine)))
    return {"runs": runs, "different": len(states), "passed": len(states) == 1}


def seconds(gpu: Gpu, calls: list[Callable[[], None]], repeats: int = 30) -> float:
    """Return the median time of a call, the calls taken in turn, by CUDA events."""
    start, end = gpu.cuda.Event(), gpu.cuda.Event()
    times = []
    for _ in range(repeats + 3):
        start.record(gpu.stream)
        for call in calls:
            call()
        end.record(gpu.stream)
        end.synchronize()
        times.append(end.time_since(start) / 1000 / len(calls))
    return statistics.median(times[3:])


def bandwidth(gpu: Gpu, sizes: tuple[tuple[int, int], ...] = LARGE) -> Record:
    """Bytes of logits and gradient a second, beside a device-to-device copy of as many bytes.

    Both go round several pairs of buffers, together larger than the L2 cache.
    """
    cases = []
    for B, K in sizes:
        for logits, dlogits in PAIRS:
            sizes_ = [C_TYPES[t][1] * B * K for t in (logits, dlogits)]
            attribute = gpu.cuda.device_attribute.L2_CACHE_SIZE
            cache = gpu.cuda.Context.get_device().get_attribute(attribute)
            pairs = max(4, 1 + 4 * cache // sum(sizes_))
            x, _ = stored(np.random.default_rng(0).normal(size=(B, K)) * 4, logits)
            ins = [gpu.upload(x) for _ in range(pairs)]
            outs = [gpu.cuda.mem_alloc(sizes_[1]) for _ in range(pairs)]
            burst = make(gpu, K, B, logits, dlogits)
            copies = [gpu.cuda.mem_alloc(sum(sizes_) // 2) for _ in range(2 * pairs)]
            copy = seconds(
                gpu,
                [
                    functools.partial(
                        gpu.cuda.memcpy_dtod_async,
                        int(copies[2 * i]),
                        int(copies[2 * i + 1]),
                        sum(sizes_) // 2,
                        gpu.stream,
                    )
                    for i in range(pairs)
                ],
            )
            for objective in ("tent", "rdumb"):
                burst.reset(
                    TENT if objective == "tent" else eata(K), learning_rate=0.01, momentum=0.9
                )
                taken = seconds(
                    gpu,
                    [
                        functools.partial(burst.objective, Mode.STEP, int(i), B, int(o))
                        for i, o in zip(ins, outs, strict=True)
                    ],
                )
                cases.append(
                    {
                        "B": B,
                        "K": K,
                        "logits": logits,
                        "dlogits": dlogits,
                        "objective": objective,
                        "GB_per_s": sum(sizes_) / taken / 1e9,
                        "copy_GB_per_s": sum(sizes_) / copy / 1e9,
                        "of_copy": copy / taken,
                    }
                )
    return {
        "target": BANDWIDTH_TARGET,
        "cases": cases,
        "passed": all(c["of_copy"] >= BANDWIDTH_TARGET for c in cases),
    }


def finish_times(gpu: Gpu, call: Callable[[], None], repeats: int = 1000) -> float:
    """Return the median seconds from the call to the end of what it enqueued."""
    times = []
    for _ in range(repeats):
        gpu.stream.synchronize()
        begin = time.perf_counter()
        call()
        gpu.stream.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[repeats // 10 :])


def latency(gpu: Gpu) -> Record:
    """Launch to finish of em_objective at B = 64, K = 1000, beside an empty kernel's.

    The empty kernel takes the same arguments and the same grid.
    """
    from pycuda.compiler import SourceModule

    B, K = SMALL
    burst = make(gpu, K, B)
    burst.reset(TENT, learning_rate=0.01, momentum=0.9)
    x = gpu.upload((4 * np.random.default_rng(0).normal(size=(B, K))).astype(np.float32))
    out = gpu.upload(np.zeros((B, K), np.float32))
    size = layout.BURST.itemsize
    module = SourceModule(
        f"struct alignas(8) Burst {{ char bytes[{size}]; }};\n"
        'extern "C" __global__ void empty(Burst, int, const float*, float*, int) {}',
        no_extern_c=True,
    )
    empty = module.get_function("empty").prepare((f"{size}s", "i", "P", "P", "i"))
    block = (burst.geometry.threads, 1, 1)
    grid = (-(-B // burst.geometry.rows), 1)
    arguments = (bytes(size), int(Mode.STEP), int(x), int(out), B)
    nothing = finish_times(
        gpu, lambda: empty.prepared_async_call(grid, block, gpu.stream, *arguments)
    )
    taken = finish_times(gpu, lambda: burst.objective(Mode.STEP, int(x), B, int(out)))
    return {
        "B": B,
        "K": K,
        "microseconds": taken * 1e6,
        "empty_microseconds": nothing * 1e6,
        "ratio": taken / nothing,
        "target": LATENCY_TARGET,
        "passed": taken <= LATENCY_TARGET * nothing,
    }


def torch_objective(logits: Any, margin: float, d: float, mean: Any) -> Any:
    """The rdumb gradient as one would write it in PyTorch."""
    import torch

    log_p = logits.log_softmax(1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(1)
    cosine = torch.nn.functional.cosine_similarity(mean[None], p, dim=1)
    selected = (entropy < margin) & (cosine.abs() < d)
    weight = torch.where(selected, torch.exp(margin - entropy), 0.0)
    gradient = -weight[:, None] * p * (log_p + entropy[:, None])
    return gradient, logits.argmax(1), p.amax(1), entropy, selected


def torch_comparison(
    gpu: Gpu, sizes: tuple[tuple[int, int], ...] = (SMALL, (4096, 1000))
) -> Record:
    """The same mathematics in PyTorch, eager and compiled, and em_objective, by CUDA events."""
    try:
        import torch
    except ImportError:
        return {"skipped": "PyTorch is not installed"}
    if not torch.cuda.is_available():
        return {"skipped": "this PyTorch has no CUDA"}
    cases = []
    for B, K in sizes:
        logits = 4 * torch.randn(B, K, device="cuda")
        mean = torch.full((K,), 1 / K, device="cuda")
        objective = eata(K)
        call = (logits, objective.entropy_margin, objective.redundancy_margin, mean)
        out = torch.empty_like(logits)
        burst = make(gpu, K, B)
        burst.reset(objective, learning_rate=0.01, momentum=0.9)
        warm = torch.ones(1000, device="cuda")
        burst.objective(Mode.STEP, logits.data_ptr(), B, out.data_ptr())
        burst.reduce(logits.data_ptr(), B)
        burst.update(warm.data_ptr())  # from here on there is a running mean
        ours = seconds(
            gpu,
            [functools.partial(burst.objective, Mode.STEP, logits.data_ptr(), B, out.data_ptr())]
            * 20,
        )
        compiled = torch.compile(torch_objective)
        external = torch.cuda.ExternalStream(gpu.stream.handle)
        with torch.cuda.stream(external), torch.no_grad():
            eager = seconds(gpu, [lambda c=call: torch_objective(*c)] * 20)
            inductor = seconds(gpu, [lambda c=call, f=compiled: f(*c)] * 20)
        cases.append(
            {
                "B": B,
                "K": K,
                "microseconds": ours * 1e6,
                "eager_microseconds": eager * 1e6,
                "compile_microseconds": inductor * 1e6,
                "faster_than_eager": eager / ours,
                "faster_than_compile": inductor / ours,
            }
        )
    return {
        "target": EAGER_TARGET,
        "cases": cases,
        "passed": all(
            c["faster_than_eager"] >= EAGER_TARGET and c["faster_than_compile"] > 1 for c in cases
        ),
    }


def sanitizer(gpu: Gpu) -> Record:
    """A part of `correctness` under compute-sanitizer's memcheck and racecheck."""
    tool = shutil.which("compute-sanitizer", path="/usr/local/cuda/bin") or shutil.which(
        "compute-sanitizer"
    )
    if tool is None:
        return {"skipped": "compute-sanitizer is not installed (it comes with the CUDA toolkit)"}
    found = {}
    for check in ("memcheck", "racecheck", "initcheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-m"]
        command += ["benchmarks.gpu.kernels", "--only", "correctness", "--quick"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found[check] = "clean" if done.returncode == 0 else done.stdout[-2000:]
    return {"tools": found, "passed": set(found.values()) == {"clean"}}


CHECKS: dict[str, Callable[[Gpu], Record]] = {
    "correctness": correctness,
    "reproducibility": reproducibility,
    "sanitizer": sanitizer,
    "bandwidth": bandwidth,
    "latency": latency,
    "torch": torch_comparison,
}


def run(name: str) -> Record:
    """Run one check; a missing GPU, driver, compiler or package becomes its "skipped"."""
    try:
        gpu = open_gpu()
        return {"check": name, **CHECKS[name](gpu)}
    except EdgewfError as error:
        return {"check": name, "skipped": str(error)}


@click.command(cls=ExplainingCommand)
@click.option("--only", type=click.Choice(list(CHECKS)), help="Run one check.")
@click.option("--quick", is_flag=True, help="Correctness on a few sizes.")
def main(only: str | None, quick: bool) -> None:
    """Check the CUDA kernels; exit with status 1 if a check fails."""
    if quick:
        CHECKS["correctness"] = functools.partial(
            correctness, classes=(2, 10, 33, 1000, 8193), batches=(7,), pairs=PAIRS[:2]
        )
    records = []
    for name in [only] if only else CHECKS:
        records.append(run(name))
        click.echo(json.dumps(records[-1]))
    if any(record.get("passed") is False for record in records):
        sys.exit(1)


if __name__ == "__main__":
    main()
