"""Engines whose burst lives in GPU memory, on a GPU made of host memory."""

from __future__ import annotations

import numpy as np
import pytest

from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.engines import Images, gpu
from edgewf.engines.gpu import Gpu
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from tests import gpu_on_host
from tests.gpu_on_host import HostGraph, Log, OnHost, Recording
from tests.tiny import crops, export_tiny, tiny_settings

WINDOW, BATCH = 48, 16
SETTINGS = tiny_settings(window=WINDOW, batch_size=BATCH, steps=6, learning_rate=0.05)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def window() -> Images:
    images, _ = crops(WINDOW // 6, seed=7)
    return np.random.default_rng(0).permutation(images)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    HostGraph.recorded = 0
    return gpu_on_host.use(monkeypatch)


@pytest.mark.parametrize("make", [OnHost, Recording])
@pytest.mark.parametrize(
    "changes", [{}, {"source_samples": 16.0}, {"objective": "rdumb"}, {"steps": 0}]
)
def test_a_burst_agrees_with_the_cpu_engine(
    bundle: Bundle, window: Images, log: Log, make: type[OnHost], changes: dict[str, object]
) -> None:
    settings = SETTINGS.with_changes(**changes)
    found = run_burst(make(bundle, Gpu()), window, settings)
    expected = run_burst(OnnxRuntimeCPU(bundle, threads=1), window, settings)
    for name in ("deployed", "before", "after"):
        one, other = getattr(found.record, name), getattr(expected.record, name)
        np.testing.assert_array_equal(one.label, other.label)
        np.testing.assert_allclose(one.confidence, other.confidence, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-3, atol=1e-3)
    assert found.record.affine_change == pytest.approx(expected.record.affine_change, rel=1e-3)
    for a, b in zip(found.record.steps, expected.record.steps, strict=True):
        assert (a.samples, a.reliable, a.selected, a.moved) == (
            b.samples,
            b.reliable,
            b.selected,
            b.moved,
        )
        assert a.mean_entropy == pytest.approx(b.mean_entropy, rel=1e-3)


def test_nothing_waits_between_reset_and_read(bundle: Bundle, window: Images, log: Log) -> None:
    engine = Recording(bundle, Gpu())
    engine.reset(SETTINGS)
    log.clear()
    waits = engine.gpu.waits
    for start in range(0, WINDOW, BATCH):
        engine.record(window[start : start + BATCH])
    for _ in range(SETTINGS.steps):
        engine.step(window[:BATCH])
    for start in range(0, WINDOW, BATCH):
        engine.probe(window[start : start + BATCH])
    assert (log, engine.gpu.waits) == ([], waits)
    engine.read()
    assert (log, engine.gpu.waits) == (["wait"], waits + 1)


def test_a_burst_too_long_for_the_ring_waits_for_its_oldest_batch(
    bundle: Bundle, window: Images, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_burst(OnHost(bundle, Gpu()), window, SETTINGS)
    monkeypatch.setattr(gpu, "STAGING_BYTES", 2 * window[:BATCH].nbytes)
    engine = OnHost(bundle, Gpu())
    engine.reset(SETTINGS)
    log.clear()
    for _ in range(5):
        engine.step(window[:BATCH])
    assert log == ["wait"] * 3
    found = run_burst(engine, window, SETTINGS)
    assert found.record.affine_change == expected.record.affine_change


def test_a_step_is_recorded_once(bundle: Bundle, window: Images, log: Log) -> None:
    engine = Recording(bundle, Gpu())
    one, other = (run_burst(engine, window, SETTINGS) for _ in range(2))
    assert HostGraph.recorded == 1
    assert one.record.affine_change == other.record.affine_change
    np.testing.assert_array_equal(one.record.after.confidence, other.record.after.confidence)


def test_an_integrated_gpu_reads_frames_in_place(
    bundle: Bundle, window: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_on_host.use(monkeypatch)
    expected = run_burst(Recording(bundle, Gpu()), window, SETTINGS)
    gpu_on_host.use(monkeypatch, integrated=True)
    HostGraph.recorded = 0
    engine = Recording(bundle, Gpu())
    for _ in range(2):
        found = run_burst(engine, window, SETTINGS)
        np.testing.assert_array_equal(
            found.record.after.confidence, expected.record.after.confidence
        )
    assert HostGraph.recorded == SETTINGS.steps  # one a place in the ring


def test_inference_takes_any_number_of_frames_and_a_burst_leaves_it_alone(
    bundle: Bundle, window: Images, log: Log
) -> None:
    engine = OnHost(bundle, Gpu())
    images = np.concatenate([window, window[:20]])  # more than the deployed batch of 50
    before = engine.infer(images)
    np.testing.assert_allclose(
        before, OnnxRuntimeCPU(bundle, threads=1).infer(images), rtol=1e-4, atol=1e-4
    )
    engine.reset(SETTINGS)
    for start in range(0, WINDOW, BATCH):
        engine.record(window[start : start + BATCH])
        engine.infer(window[:3])
        engine.step(window[start : start + BATCH])
    assert engine.infer(images).tobytes() == before.tobytes()


def test_a_burst_without_room_is_refused_and_inference_goes_on(
    bundle: Bundle, window: Images, log: Log
) -> None:
    engine = OnHost(bundle, Gpu())
    before, allocated = engine.infer(window), log.allocated
    log.limit = allocated + 100_000
    with pytest.raises(EdgewfError, match=r"out of memory in preparing a burst .*--memory low"):
        run_burst(engine, window, SETTINGS)
    assert log.allocated == allocated
    assert engine.infer(window).tobytes() == before.tobytes()
    log.limit = float("inf")
    assert run_burst(engine, window, SETTINGS).record.affine_change > 0


def test_another_size_of_burst_gets_its_own_room(bundle: Bundle, window: Images, log: Log) -> None:
    engine = Recording(bundle, Gpu())
    for changes in ({}, {"batch_size": 8}, {"steps": 9}, {"batch_size": 24}, {}):
        settings = SETTINGS.with_changes(**changes)
        found = run_burst(engine, window, settings).record
        expected = run_burst(OnnxRuntimeCPU(bundle, threads=1), window, settings).record
        assert found.affine_change == pytest.approx(expected.affine_change, rel=1e-3)


def test_a_batch_larger_than_the_graphs_were_loaded_for(bundle: Bundle, log: Log) -> None:
    images, _ = crops(20, seed=3)
    settings = tiny_settings(window=120, batch_size=60, steps=2)
    engine = OnHost(bundle, Gpu())
    before = engine.infer(images)
    found = run_burst(engine, images, settings).record
    expected = run_burst(OnnxRuntimeCPU(bundle, threads=1), images, settings).record
    assert found.affine_change == pytest.approx(expected.affine_change, rel=1e-3)
    assert engine.infer(images).tobytes() == before.tobytes()


def test_a_gpu_that_fails_says_what_to_do(bundle: Bundle, window: Images, log: Log) -> None:
    engine = OnHost(bundle, Gpu())
    with (
        pytest.raises(EdgewfError, match=r"failed in a step: cuEventRecord .*; restart this"),
        engine.gpu.current("a step"),
    ):
        raise gpu_on_host.DriverError("cuEventRecord failed: unspecified launch failure")


def test_a_graph_that_onnx_runtime_refuses_is_named(
    bundle: Bundle, log: Log, tmp_path: object
) -> None:
    broken = bundle.folder / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(EdgewfError, match=r"broken.onnx: ONNX Runtime \S+ cannot load it"):
        OnHost(bundle, Gpu()).load("broken.onnx", 4)


def test_without_pycuda_the_error_says_what_to_install() -> None:
    try:
        import pycuda.driver  # noqa: F401
    except ImportError:
        with pytest.raises(EdgewfError, match=r"pycuda cannot be imported .*pip install pycuda"):
            Gpu()
    else:
        pytest.skip("pycuda is installed")
