"""Plans beside the graphs they were built from: `BUNDLE/engines/`.

A plan is good for one graph with its weights, one version of TensorRT, one kind of GPU and one
range of batch sizes. Its file name holds a hash of them all, so one that no longer fits is never
found, and it goes when its successor is written. Plans of TensorRT for RTX fit every GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edgewf.bundle import GRAPHS, WEIGHTS, Bundle, content_hash, write_bytes
from edgewf.engines.cuda_devices import NoCudaError, cuda_driver
from edgewf.engines.tensorrt_builder import Batches, PlanBuilder
from edgewf.errors import EdgewfError

FOLDER = "engines"
ANY_GPU = "any"


@dataclass(frozen=True)
class Target:
    """What plans are built for.

    Attributes:
        tensorrt: module and version, see `PlanBuilder.version`.
        gpu: name and compute capability, or `ANY_GPU`.
    """

    tensorrt: str
    gpu: str


def target_here(tensorrt: str) -> Target:
    """Return what plans of a TensorRT have to be built for on this machine.

    Raises:
        NoCudaError: they fit one kind of GPU, and there is none.
    """
    if "_rtx" in tensorrt:
        return Target(tensorrt, ANY_GPU)
    device = next(iter(cuda_driver().devices), None)
    if device is None:
        raise NoCudaError("no GPU", "see whether CUDA_VISIBLE_DEVICES hides it")
    return Target(tensorrt, f"{device.name} sm_{device.compute_capability}")


def batches_for(bundle: Bundle, batch: int) -> Batches:
    """Return the batch sizes that plans for bursts of `batch` frames a batch take."""
    usual = Batches.of(bundle)
    return usual if batch <= usual.largest else Batches(1, batch, batch)


def plan_path(bundle: Bundle, graph: str, batches: Batches, target: Target) -> Path:
    """Return where the plan of a graph is kept, whether or not it is there."""
    files = bundle.manifest.files
    key = content_hash(
        {
            "graph": files[graph]["sha256"],
            "weights": files[WEIGHTS]["sha256"],
            "precision": bundle.manifest.precision,
            "batches": asdict(batches),
            **asdict(target),
        }
    )
    return bundle.path(FOLDER) / f"{_series(graph, batches, target)}{key[:16]}.plan"


def build_plans(
    bundle: Bundle,
    batches: Batches,
    target: Target,
    open_builder: Callable[[], PlanBuilder],
    on_graph: Callable[[int, int, str], None],
    *,
    force: bool = False,
) -> list[tuple[Path, bool]]:
    """Build the plans of a bundle that are not there, and drop those they replace.

    Args:
        bundle: a checked bundle.
        batches: batch sizes that the plans take.
        target: what for.
        open_builder: called once if there is anything to build.
        on_graph: called with plans done, plans in all and the graph's name before each.
        force: build those that are there again.

    Returns:
        The file of each graph's plan, and whether it was built now.

    Raises:
        EdgewfError: TensorRT refuses a graph, or the bundle's folder cannot be written to.
    """
    paths = [plan_path(bundle, graph, batches, target) for graph in GRAPHS]
    todo = [force or not path.is_file() for path in paths]
    builder = open_builder() if any(todo) else None
    for done, (graph, path, missing) in enumerate(zip(GRAPHS, paths, todo, strict=True)):
        if not missing:
            continue
        assert builder is not None
        on_graph(done, len(GRAPHS), graph)
        _write(path, builder.build(bundle.path(graph), batches).data)
        for old in path.parent.glob(f"{_series(graph, batches, target)}*.plan"):
            if old != path:
                old.unlink(missing_ok=True)
    return list(zip(paths, todo, strict=True))


def _series(graph: str, batches: Batches, target: Target) -> str:
    """Return what the file names of plans that follow each other have in common."""
    gpu = re.sub(r"[^A-Za-z0-9.]+", "-", target.gpu).strip("-")
    return f"{Path(graph).stem}.{gpu}.b{batches.largest}."


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, data)
    except OSError as error:
        raise EdgewfError(
            f"{path}: cannot be written ({error.strerror}): run `edgewf build` once as a user "
            "who may write to the bundle and with room on the disk, or copy the bundle"
        ) from error
