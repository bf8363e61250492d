"""Engines whose burst lives in GPU memory: all but how a runtime runs the graphs.

Between `reset` and `read` everything is only enqueued on one stream: frames wait in pinned memory,
residuals stay where forward wrote them, and `BurstKernels` holds the state of the burst.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.engines import BurstRecord, Features, Float32, Images, Predictions, StepTrace
from edgewf.engines.cuda_graph import CudaGraph
from edgewf.engines.gpu import Frames, Gpu, Memory
from edgewf.errors import EdgewfError
from edgewf.kernels.device import BurstKernels, BurstResult, Mode
from edgewf.settings import BurstSettings

# The columns of a window's table, in which its frames are looked at.
_LABELS = (Mode.DEPLOYED, Mode.BEFORE, Mode.AFTER)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        dtype: of its elements.
        shape: None where the batch is.
    """

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def fixed(self, batch: int) -> tuple[int, ...]:
        """Return the shape for a batch."""
        return tuple(batch if n is None else n for n in self.shape)

    def size(self, batch: int) -> int:
        """Return the bytes it takes for a batch."""
        return int(np.prod(self.fixed(batch))) * self.dtype.itemsize


class DeviceGraph(Protocol):
    """A graph that a runtime loaded, whose tensors lie in GPU memory.

    Attributes:
        tensors: inputs and outputs by name.
    """

    tensors: Mapping[str, Tensor]

    def prepare(self, batch: int) -> None:
        """Take whatever memory and time the first run of a batch size needs."""

    def enqueue(self, batch: int, addresses: Mapping[str, int]) -> None:
        """Run on the engine's stream.

        Args:
            batch: of every tensor.
            addresses: device addresses of all tensors; others may be among them.
        """

    def free(self) -> None:
        """Give its memory back."""


@dataclass
class _Room:
    """What bursts of one batch size, window and number of steps need.

    Attributes:
        fits: that batch size, window and number of steps.
        memory: of the graphs' tensors, by name.
        addresses: of all tensors but `images`.
        recorded: the whole step as a CUDA graph, by the addresses of its frames and of the
            runtime's scratch memory.
        logits: pinned memory for those of the window, [window, K], deployed, before and after.
        filled: rows of each that were enqueued in this burst.
        ranked: the initial confidences of this burst are ranked.
    """

    fits: tuple[int, int, int]
    kernels: BurstKernels
    frames: Frames
    memory: dict[str, Memory]
    addresses: dict[str, int]
    recorded: dict[tuple[int, int], CudaGraph]
    logits: dict[Mode, NDArray[Any]]
    filled: dict[Mode, int]
    ranked: bool = False

    def free(self) -> None:
        for graph in self.recorded.values():
            graph.free()
        for memory in self.memory.values():
            memory.free()
        self.frames.free()


class DeviceEngine(ABC):
    """The burst of `edgewf.engines.Engine` on a GPU.

    The deployed graph has its memory from the start, so a burst that finds no room for its own
    leaves `infer` as it was. An engine serves one thread at a time.

    Attributes:
        name: as `--engine` spells it.
        records_steps: the runtime's work can be recorded in a CUDA graph.
        bundle: what the engine runs.
        gpu: where; `gpu.waits` counts how often the host waited for it.
    """

    name: str
    records_steps = False

    def __init__(self, bundle: Bundle, gpu: Gpu) -> None:
        """Load the deployed graph; those of a burst follow with the first `reset`.

        Raises:
            EdgewfError: the runtime refuses the graph, or the GPU has no room for it.
        """
        self.bundle = bundle
        self.gpu = gpu
        self._graphs: dict[str, DeviceGraph] = {}
        self._largest = bundle.manifest.burst.batch_size
        self._room: _Room | None = None
        self._reset_every = self._taken = 0
        with gpu.current("loading the deployed network"):
            graph = self._graph("infer.onnx", self._largest)
            graph.prepare(self._largest)
            self._infer_batch = self._largest
            self._infer_frames = Frames(gpu, 1, graph.tensors["images"].fixed(self._infer_batch))
            logits = graph.tensors["logits"]
            self._infer_memory = gpu.allocate(logits.size(self._infer_batch))
            self._infer_logits = gpu.pinned(logits.fixed(self._infer_batch), logits.dtype)

    @property
    def scratch_address(self) -> int:
        """Where the runtime's graphs compute; a recorded step writes there even after it moved."""
        return 0

    @abstractmethod
    def load(self, name: str, batch: int) -> DeviceGraph:
        """Load a graph of the bundle for batches of up to `batch`.

        Raises:
            EdgewfError: the runtime refuses it.
        """

    def infer(self, images: Images) -> Float32:
        starts = range(0, len(images), self._infer_batch)
        with self.gpu.current("inference"):
            return np.concatenate([self._infer(images[i : i + self._infer_batch]) for i in starts])

    def reset(self, settings: BurstSettings) -> None:
        objective = settings.kernel_objective
        if objective.sharpness:
            raise EdgewfError(
                f"the objective {settings.objective} takes two passes a step, which engine "
                f"{self.name} does not: use --engine openvino or onnxruntime"
            )
        fisher = self.bundle.fisher() if objective.fisher_weight else None
        self._reset_every, self._taken = objective.reset_every, 0
        with self.gpu.current("preparing a burst (the deployed network still runs)"):
            room = self._room_for(settings)
            room.ranked = False
            room.filled = dict.fromkeys(room.logits, 0)
            room.kernels.reset(
                objective,
                learning_rate=settings.learning_rate,
                momentum=settings.momentum,
                fisher=fisher,
            )
            weight = self.gpu.pinned((1,), np.float32)
            weight[0] = settings.source_weight
            self.gpu.upload(room.addresses["source_weight"], weight)
            self.gpu.wait()
            room.frames.rewind()

    def record(self, images: Images) -> None:
        with self._enqueuing("recording the labels", images) as (room, addresses, batch):
            for name, mode in (("infer.onnx", Mode.DEPLOYED), ("probe.onnx", Mode.BEFORE)):
                self._take_labels(room, name, mode, batch, addresses)

    def step(self, images: Images) -> None:
        with self._enqueuing("a step", images) as (room, addresses, batch):
            if batch != room.fits[0]:
                raise ValueError(
                    f"a step of {batch} frames in a burst with batches of {room.fits[0]}"
                )
            if self._reset_every and self._taken and self._taken % self._reset_every == 0:
                room.kernels.restart()
            self._taken += 1
            if not self.records_steps:
                self._enqueue_step(room.kernels, batch, addresses)
                return
            place = addresses["images"], self.scratch_address
            if place not in room.recorded:
                room.recorded[place] = CudaGraph(
                    self.gpu.stream_handle,
                    lambda: self._enqueue_step(room.kernels, batch, addresses),
                )
            room.recorded[place].launch()

    def step_parts(self, images: Images) -> dict[str, float]:
        """Run a step and return what its parts took on the GPU, in seconds.

        It waits, and enqueues the parts one by one where steps are recorded.
        """
        marks: list[Any] = []
        with self.gpu.current("timing a step"):
            marks.append(self.gpu.timestamp())
        with self._enqueuing("timing a step", images) as (room, addresses, batch):

            def mark() -> None:
                marks.append(self.gpu.timestamp())

            mark()
            self._enqueue_step(room.kernels, batch, addresses, mark)
            self.gpu.wait()
            parts = ("upload", "forward", "objective", "backward", "update")
            laps = (self.gpu.seconds_between(a, b) for a, b in pairwise(marks))
            return dict(zip(parts, laps, strict=True))

    def probe(self, images: Images) -> None:
        with self._enqueuing("taking the labels after", images) as (room, addresses, batch):
            if not room.ranked:
                room.kernels.rank_weights()
                room.ranked = True
            self._take_labels(room, "probe.onnx", Mode.AFTER, batch, addresses)

    def features(self, images: Images) -> Features:
        graph = self._graphs["probe.onnx"]
        with self._enqueuing("looking at embeddings", images) as (_, addresses, batch):
            graph.enqueue(batch, addresses)
            found = []
            for name in ("logits", "embedding"):
                tensor = graph.tensors[name]
                found.append(self.gpu.pinned(tensor.fixed(batch), tensor.dtype))
                self.gpu.download(found[-1], addresses[name])
            self.gpu.wait()
        return Features(*(values.astype(np.float32) for values in found))

    def cancel(self) -> None:
        """Leave it: no call takes seconds on a GPU."""
        return

    def read(self) -> BurstRecord:
        assert self._room is not None, "reset() starts a burst"
        with self.gpu.current("reading the burst"):
            self.gpu.waits += 1
            return _record(self._room.kernels.read(), self._room.logits)

    def _infer(self, images: Images) -> Float32:
        batch = len(images)
        with self._infer_frames.staged(images) as address:
            addresses = {"images": address, "logits": self._infer_memory.address}
            self._graphs["infer.onnx"].enqueue(batch, addresses)
        self.gpu.download(self._infer_logits[:batch], self._infer_memory.address)
        self.gpu.wait()
        logits: Float32 = self._infer_logits[:batch].copy()
        return logits

    def _take_labels(
        self, room: _Room, graph: str, mode: Mode, batch: int, addresses: Mapping[str, int]
    ) -> None:
        """Enqueue a batch of the window: its labels to the table, its logits to the host."""
        self._graphs[graph].enqueue(batch, addresses)
        room.kernels.objective(mode, addresses["logits"], batch)
        first = room.filled[mode]
        room.filled[mode] = first + batch
        self.gpu.download(room.logits[mode][first : first + batch], addresses["logits"])

    def _enqueue_step(
        self,
        kernels: BurstKernels,
        batch: int,
        addresses: Mapping[str, int],
        mark: Callable[[], None] = lambda: None,
    ) -> None:
        """Enqueue a step; `mark` is called after each of its four parts."""
        logits = addresses["logits"]
        self._graphs["forward.onnx"].enqueue(batch, addresses)
        mark()
        kernels.objective(Mode.STEP, logits, batch, addresses["dlogits"])
        kernels.reduce(logits, batch)
        mark()
        self._graphs["backward.onnx"].enqueue(batch, addresses)
        mark()
        kernels.update(addresses["affine_grad"])
        mark()

    @contextmanager
    def _enqueuing(self, doing: str, images: Images) -> Iterator[tuple[_Room, dict[str, int], int]]:
        room = self._room
        assert room is not None, "reset() starts a burst"
        with self.gpu.current(doing), room.frames.staged(images) as address:
            yield room, {**room.addresses, "images": address}, len(images)

    def _graph(self, name: str, batch: int) -> DeviceGraph:
        if name not in self._graphs:
            self._graphs[name] = self.load(name, batch)
        return self._graphs[name]

    def _room_for(self, settings: BurstSettings) -> _Room:
        fits = settings.batch_size, settings.window, settings.steps
        if self._room is not None and self._room.fits == fits:
            return self._room
        if self._room is not None:
            self._room.free()
            self._room = None
        if settings.batch_size > self._largest:
            self._reload(settings.batch_size)
        self._room = self._make_room(settings)
        return self._room

    def _reload(self, batch: int) -> None:
        """Load every graph for larger batches; the deployed one stays until the new one is in."""
        deployed = self.load("infer.onnx", batch)
        deployed.prepare(self._infer_batch)
        for graph in self._graphs.values():
            graph.free()
        self._graphs = {"infer.onnx": deployed}
        self._largest = batch

    def _make_room(self, settings: BurstSettings) -> _Room:
        gpu, batch = self.gpu, settings.batch_size
        graphs = {
            name: self._graph(name, self._largest)
            for name in ("infer.onnx", "probe.onnx", "forward.onnx", "backward.onnx")
        }
        tensors = {name: x for graph in graphs.values() for name, x in graph.tensors.items()}
        with _undone_if_it_fails() as undo:
            memory = {}
            for name, tensor in tensors.items():
                if name not in ("images", "affine"):
                    memory[name] = gpu.allocate(tensor.size(batch))
                    undo.append(memory[name].free)
            calls = 2 * settings.window // batch + settings.steps
            frames = Frames(gpu, calls, tensors["images"].fixed(batch))
            undo.append(frames.free)
            kernels = BurstKernels(
                self.bundle.affine,
                classes=self.bundle.manifest.classes,
                window=settings.window,
                steps=settings.steps,
                logits_dtype=_float_type(tensors["logits"]),
                dlogits_dtype=_float_type(tensors["dlogits"]),
                loss_scale=self.bundle.manifest.loss_scale,
                stream=gpu.stream,
            )
            addresses = {name: block.address for name, block in memory.items()}
            addresses["affine"] = kernels.affine_ptr
            # Runtimes take memory and choose kernels when they first meet a batch size.
            with frames.staged(np.zeros(tensors["images"].fixed(batch), np.uint8)) as images:
                for graph in graphs.values():
                    graph.prepare(batch)
                    graph.enqueue(batch, {**addresses, "images": images})
            gpu.wait()
            window = tensors["logits"].fixed(settings.window)
            logits = {mode: gpu.pinned(window, tensors["logits"].dtype) for mode in _LABELS}
        return _Room(
            fits=(batch, settings.window, settings.steps),
            kernels=kernels,
            frames=frames,
            memory=memory,
            addresses=addresses,
            recorded={},
            logits=logits,
            filled=dict.fromkeys(_LABELS, 0),
        )


@contextmanager
def _undone_if_it_fails() -> Iterator[list[Callable[[], None]]]:
    """Yield a list; what is on it is called if the block fails."""
    undo: list[Callable[[], None]] = []
    try:
        yield undo
    except BaseException:
        for call in undo:
            call()
        raise


def _float_type(tensor: Tensor) -> Any:
    """Return a float tensor's type as `BurstKernels` spells it."""
    return tensor.dtype.name


def _record(result: BurstResult, logits: Mapping[Mode, NDArray[Any]]) -> BurstRecord:
    deployed, before, after = (
        Predictions(
            result.label[mode],
            result.confidence[mode],
            logits[mode][: result.label.shape[1]].astype(np.float32),
        )
        for mode in _LABELS
    )
    steps = zip(
        result.samples.tolist(),
        result.mean_entropy.tolist(),
        result.reliable.tolist(),
        result.selected.tolist(),
        result.moved.tolist(),
        strict=True,
    )
    return BurstRecord(
        deployed, before, after, tuple(StepTrace(*step) for step in steps), result.affine_change
    )
