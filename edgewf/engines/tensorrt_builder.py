"""TensorRT plans from the graphs of a bundle: parse, build, and say which node stands in the way.

TensorRT itself needs an NVIDIA GPU to build; TensorRT for RTX has the same Python interface and
builds without one. Networks are strongly typed: tensors keep the types of the graph, as the
residuals between forward and backward must.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgewf.bundle import GRAPHS, Bundle
from edgewf.errors import EdgewfError

MODULES = ("tensorrt", "tensorrt_rtx_bindings", "tensorrt_rtx")
INSTALL = (
    "pip install 'edgewf[trt]'; on Jetson apt install python3-libnvinfer and a virtual environment "
    "with --system-site-packages"
)
INSTALL_WITHOUT_GPU = (
    "without an NVIDIA GPU pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs "
    "nvidia-cuda-runtime"
)
LARGEST_BATCH = 64
_POLL_S = 0.2


def installed_module() -> str | None:
    """Return the name of the first TensorRT module that is installed, None without one."""
    return next((name for name in MODULES if find_spec(name) is not None), None)


@dataclass(frozen=True)
class Batches:
    """Batch sizes that a plan takes, and the one that its kernels are chosen for."""

    smallest: int
    usual: int
    largest: int

    @classmethod
    def of(cls, bundle: Bundle) -> Batches:
        """Return 1 to 64, or to the burst's batch where that is larger; usual is the burst's."""
        usual = bundle.manifest.burst.batch_size
        return cls(1, usual, max(usual, LARGEST_BATCH))


@dataclass(frozen=True)
class Plan:
    """A graph that TensorRT built.

    Attributes:
        data: the serialized engine.
        layers: of TensorRT's network before it is optimised.
        seconds: that parsing and building took.
    """

    data: bytes
    layers: int
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """What TensorRT said of a graph.

    Attributes:
        graph: its file name.
        layers, seconds: see `Plan`; 0 if it was refused.
        plan_bytes: size of the plan; 0 if it was refused.
        error: why it was refused, naming the node; None if it was not.
    """

    graph: str
    layers: int
    seconds: float
    plan_bytes: int
    error: EdgewfError | None


class PlanBuilder:
    """Builds plans with the first TensorRT module that can build on this machine.

    Attributes:
        version: of TensorRT, with the module's name.
    """

    def __init__(self, modules: Sequence[str] | None = None) -> None:
        """Load TensorRT.

        Args:
            modules: names of those that may be taken, best first; None for all.

        Raises:
            EdgewfError: no TensorRT module is installed, or none of them can build here.
        """
        found = [name for name in modules or MODULES if find_spec(name) is not None]
        if not found:
            raise EdgewfError(f"no TensorRT module is installed: {INSTALL}; {INSTALL_WITHOUT_GPU}")
        refusals = []
        for name in found:
            refusal = self._open(name)
            if refusal is None:
                return
            refusals.append(f"{name}: {refusal}")
        raise EdgewfError(
            f"TensorRT cannot build here ({'; '.join(refusals)}): it needs an NVIDIA GPU with its "
            f"driver; {INSTALL_WITHOUT_GPU}"
        )

    def _open(self, name: str) -> str | None:
        """Take a module; return what is wrong with it otherwise."""
        log = None
        try:
            self._trt: Any = importlib.import_module(name)
            self._log = log = error_log(self._trt)
            self._builder = self._trt.Builder(log)
        except Exception as error:  # without a piece or a driver it raises whatever it likes
            complaints: list[str] = log.complaints if log else []
            reasons = [*complaints, str(error).strip(), type(error).__name__]
            return next(reason.splitlines()[0] for reason in reasons if reason)
        self.version = f"{name} {self._trt.__version__}"
        return None

    def parse(self, graph: Path) -> tuple[Any, Any]:
        """Return the network of an ONNX file, and the parser, which owns its weights.

        Raises:
            EdgewfError: TensorRT does not take a node, which the message names, with the reason.
        """
        self._log.complaints.clear()
        typed = self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        network = self._builder.create_network(1 << int(typed))
        parser = self._trt.OnnxParser(network, self._log)
        if not parser.parse_from_file(str(graph)):
            raise self._refusal(graph, *_parser_complaint(parser))
        return network, parser

    def build(self, graph: Path, batches: Batches) -> Plan:
        """Parse and build one graph. An interrupt ends the build, then raises.

        Args:
            graph: ONNX file, its weights beside it.
            batches: what dynamic dimensions may be.

        Raises:
            EdgewfError: as `parse`, or the node cannot be built.
        """
        start = time.perf_counter()
        network, parser = self.parse(graph)
        config = self._builder.create_builder_config()
        # TensorFloat-32, on by default, has a tenth of float32's digits.
        config.clear_flag(self._trt.BuilderFlag.TF32)
        config.add_optimization_profile(self._profile(network, batches))
        data = self._serialize(network, config)
        del parser  # here and no earlier
        if data is None:
            raise self._refusal(graph, *self._builder_complaint(network))
        return Plan(bytes(data), network.num_layers, time.perf_counter() - start)

    def _profile(self, network: Any, batches: Batches) -> Any:
        profile = self._builder.create_optimization_profile()
        for i in range(network.num_inputs):
            value = network.get_input(i)
            dynamic = tuple(value.shape)
            if -1 in dynamic:
                sizes = (batches.smallest, batches.usual, batches.largest)
                shapes = [tuple(size if n == -1 else n for n in dynamic) for size in sizes]
                profile.set_shape(value.name, *shapes)
        return profile

    def _serialize(self, network: Any, config: Any) -> Any:
        """Build in a thread of its own: Python sees no interrupt inside the library."""
        monitor = _monitor(self._trt)
        config.progress_monitor = monitor
        with ThreadPoolExecutor(1) as pool:
            # The pool forgets a thread whose start is interrupted, and would not wait for it: so
            # it starts before there is anything to wait for.
            pool.submit(int).result()
            try:
                build = pool.submit(self._builder.build_serialized_network, network, config)
                # An interrupt that comes just before a wait is noticed when the wait ends.
                while not build.done():
                    wait([build], timeout=_POLL_S)
                return build.result()
            except BaseException:
                monitor.cancelled = True
                raise

    def _builder_complaint(self, network: Any) -> tuple[str, str]:
        """Return the first layer that the last error names, "" if none, and the error."""
        reason = self._log.complaints[-1] if self._log.complaints else "no reason given"
        layers = {network.get_layer(i).name for i in range(network.num_layers)}
        words = re.findall(r"[^\s:,;()\[\]{}]+", reason)
        return next((word for word in words if word in layers), ""), reason

    def _refusal(self, graph: Path, node: str, reason: str) -> EdgewfError:
        where = f"node {node}" if node else "the graph"
        return EdgewfError(f"{graph}: TensorRT ({self.version}) refuses {where}: {reason}")


def check_bundle(
    bundle: Bundle, builder: PlanBuilder, on_graph: Callable[[int, int, str], None]
) -> list[Verdict]:
    """Build every graph of a bundle and go on after a refusal.

    Args:
        bundle: a checked bundle.
        builder: see there.
        on_graph: called with graphs done, graphs in all and the graph's name before each.
    """
    verdicts = []
    for done, name in enumerate(GRAPHS):
        on_graph(done, len(GRAPHS), name)
        try:
            plan = builder.build(bundle.path(name), Batches.of(bundle))
        except EdgewfError as error:
            verdicts.append(Verdict(name, 0, 0.0, 0, error))
            continue
        verdicts.append(Verdict(name, plan.layers, plan.seconds, len(plan.data), None))
    return verdicts


def _parser_complaint(parser: Any) -> tuple[str, str]:
    """Return the node that the parser stopped at, "" if none, and why."""
    error = parser.get_error(0)
    node = error.node_name()
    if error.node_operator():
        node = f"{node} ({error.node_operator()})".lstrip()
    return node, error.desc().strip()


def error_log(trt: Any) -> Any:
    """Return a logger of a TensorRT module that keeps errors as `complaints`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps errors, which are the only place that tells why a call failed."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.complaints: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.complaints.append(message.strip())

    return Log()


def _monitor(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells TensorRT at its next step that nobody waits any more."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            return not self.cancelled

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()
