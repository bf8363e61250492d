"""The TensorRT engine up to the device: its own calls on a TensorRT that runs on the CPU, and what
it says where a real one has no driver."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.engines import Images, tensorrt
from edgewf.engines.gpu import Gpu
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.engines.onnxruntime_gpu import SessionGraph
from edgewf.engines.tensorrt import Runtime, TensorRT
from edgewf.engines.tensorrt_builder import Plan
from edgewf.errors import EdgewfError
from tests import gpu_on_host
from tests.gpu_on_host import HostGraph, Log
from tests.tiny import crops, export_tiny, tiny_settings

WINDOW, BATCH = 48, 16
SETTINGS = tiny_settings(window=WINDOW, batch_size=BATCH, steps=6, learning_rate=0.05)


class Context:
    """An execution context that refuses to run before all it needs was given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)
        self._needed = -1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        self._needed = -1
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        self._needed = 1000 * max(n for shape in self._shapes.values() for n in shape)
        return self._needed

    def set_device_memory(self, address: int, size: int) -> None:
        self._memory = address, size

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        tensors = self._engine.graph.tensors
        assert set(self._addresses) == set(tensors)
        assert 0 <= self._needed <= self._memory[1]
        assert self._memory[0] or not self._needed
        batch = next(
            n
            for name, shape in self._shapes.items()
            for n, fixed in zip(shape, tensors[name].shape, strict=True)
            if fixed is None
        )
        assert {x: tensors[x].fixed(batch) for x in self._shapes} == self._shapes
        self._engine.graph.enqueue(batch, self._addresses)
        return True


class Engine:
    """A deserialised plan, whose bytes are the path of its ONNX file."""

    def __init__(self, graph: SessionGraph) -> None:
        self.graph = graph
        self._names = list(graph.tensors)
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.graph.tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if n is None else n for n in self.graph.tensors[name].shape)

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.graph._inputs else "out"

    def create_execution_context(self, strategy: str) -> Context | None:
        return Context(self) if strategy == "user" else None


class FakeLogger:
    """Abstract, as TensorRT's own: who makes a runtime brings a logger that takes messages."""

    ERROR = 1

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("tensorrt-engine"))


@pytest.fixture(scope="module")
def window() -> Images:
    images, _ = crops(WINDOW // 6, seed=7)
    return np.random.default_rng(0).permutation(images)


@pytest.fixture
def bundle(exported: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(exported.folder, tmp_path / "tiny")
    return Bundle.load(tmp_path / "tiny")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """A GPU and a TensorRT for RTX on the CPU; no plan needs building that was built."""
    HostGraph.recorded = 0
    found = gpu_on_host.use(monkeypatch)

    class Deserializer:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            if not data.startswith(b"plan of "):
                self._logger.log(FakeLogger.ERROR, "magic tag does not match")
                return None
            path = Path(data[8:].decode())
            return Engine(SessionGraph(path, ["CPUExecutionProvider"], Gpu(), "cpu"))

    module = SimpleNamespace(
        __version__="1.0",
        ILogger=FakeLogger,
        Runtime=Deserializer,
        nptype=lambda dtype: dtype,
        TensorIOMode=SimpleNamespace(INPUT="in"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
    )
    monkeypatch.setattr(tensorrt, "installed_module", lambda: "a_tensorrt_rtx")
    monkeypatch.setattr(tensorrt, "importlib", SimpleNamespace(import_module=lambda name: module))

    def build(graph: Path, batches: Any) -> Plan:
        found.append(graph.stem)
        return Plan(f"plan of {graph}".encode(), 1, 0.0)

    monkeypatch.setattr(tensorrt, "PlanBuilder", lambda modules: SimpleNamespace(build=build))
    return found


def test_a_burst_agrees_with_the_cpu_engine(bundle: Bundle, window: Images, log: Log) -> None:
    engine = TensorRT(bundle)
    for settings in (SETTINGS, SETTINGS.with_changes(batch_size=24), SETTINGS):
        found = run_burst(engine, window, settings).record
        expected = run_burst(OnnxRuntimeCPU(bundle, threads=1), window, settings).record
        np.testing.assert_array_equal(found.after.label, expected.after.label)
        assert found.affine_change == pytest.approx(expected.affine_change, rel=1e-3)
    assert HostGraph.recorded == 3


def test_a_step_is_recorded_again_where_its_scratch_memory_has_moved(
    bundle: Bundle, window: Images, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Context.update_device_memory_size_for_shapes

    def more_for_few(context: Context) -> int:
        context._needed = 10**6 // min(n for s in context._shapes.values() for n in s[:1] or [1])
        return context._needed if "source_weight" not in context._shapes else size(context)

    monkeypatch.setattr(Context, "update_device_memory_size_for_shapes", more_for_few)
    engine = TensorRT(bundle)
    first = run_burst(engine, window, SETTINGS).record
    scratch = engine.scratch_address
    engine.infer(window[:1])
    assert engine.scratch_address != scratch
    assert run_burst(engine, window, SETTINGS).record.affine_change == first.affine_change
    assert HostGraph.recorded == 2


def test_plans_are_built_once_and_inference_takes_any_batch(
    bundle: Bundle, window: Images, log: Log
) -> None:
    before = TensorRT(bundle).infer(window)
    assert [x for x in log if x != "wait"] == ["infer", "probe", "forward", "backward"]
    log.clear()
    engine = TensorRT(bundle)
    assert engine.infer(window).tobytes() == before.tobytes()
    np.testing.assert_allclose(engine.infer(window[:3]), before[:3], rtol=1e-4, atol=1e-4)
    assert set(log) == {"wait"}


def test_a_plan_that_does_not_load_is_named(bundle: Bundle, log: Log) -> None:
    TensorRT(bundle)
    for path in bundle.path("engines").iterdir():
        path.write_bytes(b"cut off")
    with pytest.raises(EdgewfError, match=r"infer\S+plan: a_tensorrt_rtx 1.0 cannot load it on "):
        TensorRT(bundle)
    with pytest.raises(EdgewfError, match=r"\(magic tag .*\); .*edgewf build --force"):
        TensorRT(bundle)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("Error Code 1: Cuda Runtime (out of memory)", r"out of memory in .*forward\S+plan"),
        (
            "Error Code 1: Cuda Runtime (launch failed)",
            r"cannot run \(.*launch failed\)\); restart",
        ),
    ],
)
def test_a_run_that_fails_says_why(
    bundle: Bundle,
    window: Images,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    expected: str,
) -> None:
    engine = TensorRT(bundle)
    before = engine.infer(window)
    held, scratch = log.allocated, engine._runtime.scratch.size
    run = Context.execute_async_v3

    def fail_forward(context: Context, stream: int) -> bool:
        if not {"images", "inv_std"} <= set(context._addresses):
            return run(context, stream)
        engine._runtime.log.log(FakeLogger.ERROR, reason)
        return False

    monkeypatch.setattr(Context, "execute_async_v3", fail_forward)
    with pytest.raises(EdgewfError, match=expected):
        run_burst(engine, window, SETTINGS)
    gc.collect()
    assert log.allocated - held == engine._runtime.scratch.size - scratch
    assert engine.infer(window).tobytes() == before.tobytes()


def test_a_real_tensorrt_without_a_driver_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (`make test` tries to)"
    )
    gpu_on_host.use(monkeypatch)
    runtime = Runtime(Gpu())
    assert runtime.target.gpu == "any"
    plan = tmp_path / "forward.plan"
    plan.write_bytes(b"no plan")
    with pytest.raises(
        EdgewfError, match=r"forward.plan: tensorrt\S+ \S+ cannot load it .*--force"
    ):
        runtime.load(plan)
