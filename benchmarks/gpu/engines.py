"""An engine on the GPU with one bundle: does it agree with the CPU, and how fast is it?

    python -m benchmarks.gpu.engines plans|agreement|latency ENGINE BUNDLE

prints JSON objects, one a line. Photographs lie beside the bundle, see `benchmarks.gpu.bundles`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.stages import FP16, MODELS, PICTURES, Record
from benchmarks.pictures import pieces
from edgewf.bundle import GRAPHS, MANIFEST, Bundle
from edgewf.burst import Burst, run_burst
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines import Images
from edgewf.engines.device import DeviceEngine
from edgewf.engines.gpu import Gpu
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.engines.select import CANDIDATES, select_engine
from edgewf.engines.tensorrt_builder import PlanBuilder
from edgewf.engines.tensorrt_plans import (
    Target,
    batches_for,
    build_plans,
    plan_path,
    target_here,
)
from edgewf.errors import EdgewfError
from edgewf.flips import count_flips
from edgewf.kernels.reference import Objective, em_objective
from edgewf.settings import BurstSettings

BATCHES = (8, 32, 64)
WINDOW = 256
STEPS = 10
# Relative L2 distance of gradients. fp32: kernels that sum in another order, on networks whose own
# float32 error reaches 1e-2 with random weights. fp16: rounding the weights alone moves
# EfficientNet-Lite0's by 4e-2; on the CPU its fp16 bundle is off by 8e-2 on these pictures, and
# ResNet-50's with random weights by 4e-1, so there nothing is asked.
GRADIENT = {"fp32": 1e-2, "fp16": 1.5e-1}
LABELS = {"fp32": 0.98, "fp16": 0.95}  # share of frames on which both have to say the same
FLIPS = 0.05  # of the CPU's weighted flips, or of a tenth of the window if that is more
REPEATS = 15
TRAINED = MODELS[:1]


def plans(engine: str, bundle: Bundle) -> Iterator[Record]:
    """Build the plans that are not there, as `edgewf build` does."""
    builder = PlanBuilder()
    target = target_here(builder.version)
    start = time.perf_counter()
    batches = batches_for(bundle, max(BATCHES))
    built = build_plans(bundle, batches, target, lambda: builder, lambda *progress: None)
    yield {
        "tensorrt": builder.version,
        "built": sum(new for _, new in built),
        "seconds": time.perf_counter() - start,
        "MiB": sum(path.stat().st_size for path, _ in built) / 2**20,
    }


def agreement(engine: str, bundle: Bundle) -> Iterator[Record]:
    """Compare gradient, labels and weighted flips with the fp32 bundle on the CPU."""
    settings = _settings(bundle, 32)
    images = _window(bundle)
    cpu = OnnxRuntimeCPU(Bundle.load(_fp32(bundle.folder)))
    ours = open_engine(engine, bundle)
    trained = bundle.manifest.model in TRAINED
    gradients = _gradients(ours, cpu, images[: settings.batch_size])
    asked = trained or bundle.manifest.precision == "fp32"
    yield gradients if asked else {**gradients, "bound": None, "passed": True}
    expected = run_burst(cpu, images, settings)
    bursts = [_counted(ours, images, settings) for _ in range(2)]
    flips = _flips(expected, bursts[0][0], LABELS[bundle.manifest.precision])
    # With random weights labels hang on rounding.
    yield flips if trained else {**flips, "passed": True}
    waits = [waits for _, waits in bursts]
    yield {"check": "waits inside a burst", "waits": waits, "passed": waits == [0, 0]}
    same = _bits(bursts[0][0]) == _bits(bursts[1][0])
    yield {"check": "two bursts, bit by bit", "same": same, "passed": same}
    before = ours.infer(images[:8]).tobytes()
    run_burst(ours, images, settings)
    same = ours.infer(images[:8]).tobytes() == before
    yield {"check": "deployed logits after a burst", "same": same, "passed": same}


def latency(engine: str, bundle: Bundle) -> Iterator[Record]:
    """Time deployed inference, a step and a burst, and take the GPU memory they need."""
    images = _window(bundle)
    free = _free_memory(Gpu())
    ours = open_engine(engine, bundle)
    gpu = ours.gpu
    for batch in BATCHES:
        settings = _settings(bundle, batch)
        steps, bursts = [], []
        for _ in range(REPEATS + 2):
            begin = time.perf_counter()
            burst = run_burst(ours, images, settings)
            bursts.append(time.perf_counter() - begin)
            assert len(burst.record.steps) == STEPS
            ours.reset(settings)
            begin = time.perf_counter()
            for i in range(STEPS):
                first = i * batch % (WINDOW - batch + 1)
                ours.step(images[first : first + batch])
            with gpu.current("timing"):
                gpu.wait()
            steps.append((time.perf_counter() - begin) / STEPS)
        infer = _times(lambda n=batch: ours.infer(images[:n]), REPEATS)
        yield {
            "engine": engine,
            "model": bundle.manifest.model,
            "precision": bundle.manifest.precision,
            "batch": batch,
            "step_ms": 1e3 * statistics.median(steps[2:]),
            "burst_ms": 1e3 * statistics.median(bursts[2:]),
            "infer_ms": 1e3 * statistics.median(infer),
            "window": WINDOW,
            "steps": STEPS,
            "device_MiB": (free - _free_memory(gpu)) / 2**20,
        }


def device_gradient(
    engine: DeviceEngine, images: Images, dlogits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the gradient [P] of sum(dlogits * logits), by the engine's graphs."""
    gpu, batch = engine.gpu, len(images)
    with gpu.current("the gradient check"), ExitStack() as stack:
        graphs = [engine.load(name, batch) for name in ("forward.onnx", "backward.onnx")]
        tensors = {name: x for graph in graphs for name, x in graph.tensors.items()}
        addresses = {}
        for name, tensor in tensors.items():
            memory = gpu.allocate(tensor.size(batch))
            stack.callback(memory.free)
            addresses[name] = memory.address
        given = {"images": images, "affine": engine.bundle.affine, "dlogits": dlogits}
        given["source_weight"] = np.zeros(1, np.float32)
        kept = []  # until the copies are done
        for name, value in given.items():
            pinned = gpu.pinned(value.shape, tensors[name].dtype)
            np.copyto(pinned, value, casting="same_kind")
            gpu.upload(addresses[name], pinned)
            kept.append(pinned)
        for graph in graphs:
            graph.prepare(batch)
            graph.enqueue(batch, addresses)
        found = gpu.pinned(engine.bundle.affine.shape, tensors["affine_grad"].dtype)
        gpu.download(found, addresses["affine_grad"])
        gpu.wait()
        for graph in graphs:
            graph.free()
    gradient: NDArray[np.float32] = found.astype(np.float32)
    return gradient


def _gradients(ours: DeviceEngine, cpu: OnnxRuntimeCPU, images: Images) -> Record:
    cpu.reset(_settings(ours.bundle, len(images)))
    seen: list[NDArray[np.float32]] = []

    def entropy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(em_objective(logits, Objective(), None).dlogits)
        return seen[0]

    expected = cpu.gradient(images, entropy)
    scale = np.float32(ours.bundle.manifest.loss_scale)
    found = device_gradient(ours, images, seen[0] * scale) / scale
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    bound = GRADIENT[ours.bundle.manifest.precision]
    return {
        "check": "gradient against the CPU",
        "relative_error": error,
        "bound": bound,
        "passed": error <= bound,
    }


def _flips(expected: Burst, found: Burst, share: float) -> Record:
    labels = {
        mode: float(
            (getattr(found.record, mode).label == getattr(expected.record, mode).label).mean()
        )
        for mode in ("deployed", "before", "after")
    }
    cpu, here = (
        count_flips(x.record.deployed, x.record.after.label).weighted for x in (expected, found)
    )
    return {
        "check": "labels and weighted flips against the CPU",
        "same_labels": labels,
        "weighted_flips": here,
        "weighted_flips_cpu": cpu,
        "passed": min(labels.values()) >= share and abs(here - cpu) <= FLIPS * max(cpu, 100.0),
    }


def _counted(engine: DeviceEngine, images: Images, settings: BurstSettings) -> tuple[Burst, int]:
    """Run a burst and count how often the host waited between its first call and `read`."""
    counts = []

    def count(done: int, calls: int) -> None:
        counts.append(engine.gpu.waits)

    burst = run_burst(engine, images, settings, count)
    return burst, counts[-1] - counts[0]


def _bits(burst: Burst) -> bytes:
    record = burst.record
    logits = (x.logits.tobytes() for x in (record.deployed, record.before, record.after))
    return b"".join(logits) + np.float64(record.affine_change).tobytes()


def open_engine(name: str, bundle: Bundle) -> DeviceEngine:
    """Load an engine on the GPU."""
    engine = select_engine(name, bundle).engine
    assert isinstance(engine, DeviceEngine)
    return engine


def missing(check: str, engine: str, folder: Path) -> str | None:
    """Return why a check cannot run here, None if it can."""
    lacks = [lack for c in CANDIDATES if c.name == engine for lack in c.lacks()]
    if lacks:
        return "; ".join(f"{lack.what}: {lack.fix}" for lack in lacks)
    for path in (folder / MANIFEST, _fp32(folder) / MANIFEST, folder.parent / PICTURES):
        if not path.is_file():
            return (
                f"no {path}: make it where PyTorch is, with `python -m benchmarks.gpu.bundles "
                f"{folder.parent}`"
            )
    if engine == "tensorrt" and check != "plans":
        bundle = Bundle.load(folder)
        target, batches = _target(), batches_for(bundle, max(BATCHES))
        absent = [x for x in GRAPHS if not plan_path(bundle, x, batches, target).is_file()]
        if absent:
            return f"no plan of {', '.join(absent)}: see the stage that builds them"
    return None


def _fp32(folder: Path) -> Path:
    """Return the folder of the same model in fp32."""
    return folder.with_name(folder.name.removesuffix(FP16))


def _target() -> Target:
    return target_here(PlanBuilder().version)


def _settings(bundle: Bundle, batch: int) -> BurstSettings:
    return bundle.manifest.burst.with_changes(batch_size=batch, window=WINDOW, steps=STEPS)


def _window(bundle: Bundle) -> Images:
    with np.load(bundle.folder.parent / PICTURES) as kept:
        return pieces([kept[name] for name in kept.files], bundle.manifest.preprocessing, WINDOW)


def _free_memory(gpu: Gpu) -> int:
    """Return the bytes of device memory that nobody uses."""
    with gpu.current("asking for its memory"):
        return gpu.memory()[0]


def _times(call: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times[2:]


CHECKS: dict[str, Callable[[str, Bundle], Iterator[Record]]] = {
    "plans": plans,
    "agreement": agreement,
    "latency": latency,
}


@click.command(cls=ExplainingCommand)
@click.argument("check", type=click.Choice(list(CHECKS)))
@click.argument("engine")
@click.argument("bundle", type=click.Path(path_type=Path))
def main(check: str, engine: str, bundle: Path) -> None:
    """Run one check on one engine; exit with status 1 if it fails."""
    lack = missing(check, engine, bundle)
    if lack is not None:
        click.echo(json.dumps({"skipped": lack}))
        return
    passed = True
    try:
        for record in CHECKS[check](engine, Bundle.load(bundle)):
            click.echo(json.dumps(record))
            passed = passed and record.get("passed", True)
    except EdgewfError as error:
        click.echo(json.dumps({"check": "comes to its end", "reason": str(error), "passed": False}))
        passed = False
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
