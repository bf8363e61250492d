"""The engines of the CPU: the same arithmetic, and a deployed network that bursts leave alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.engines import Images
from edgewf.engines.host import HostEngine
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source
from edgewf.images import read_image
from edgewf.kernels.reference import Objective, em_objective
from tests.tiny import PHOTOS, crops, export_tiny, tiny_settings

# Not `openvino` itself, which reports its import, see the module.
openvino = pytest.importorskip(
    "edgewf.engines.openvino_module",
    reason="OpenVINO is not installed: pip install 'edgewf[openvino]'",
)
ov, ops = openvino.ov, openvino.op
spell_out_hard_sigmoids = pytest.importorskip(
    "edgewf.engines.openvino_graph"
).spell_out_hard_sigmoids
OpenVINOCPU = pytest.importorskip("edgewf.engines.openvino_cpu").OpenVINOCPU

WINDOW, BATCH = 48, 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def window() -> Images:
    images, _ = crops(WINDOW // 6, seed=7)
    return np.random.default_rng(0).permutation(images)


@pytest.fixture(scope="module")
def pair(bundle: Bundle) -> tuple[HostEngine, HostEngine]:
    return OnnxRuntimeCPU(bundle, threads=1), OpenVINOCPU(bundle, threads=1)


@pytest.fixture(scope="module", params=[OnnxRuntimeCPU, OpenVINOCPU], ids=lambda c: c.name)
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> HostEngine:
    return request.param(bundle, threads=1)


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def agree(pair: tuple[HostEngine, HostEngine], images: Images, tolerance: float) -> None:
    """Compare logits, deployed and adapted, and the gradient of the mean entropy."""
    (deployed, logits, gradient), other = (
        (
            engine.infer(images),
            engine.adapted_logits(images),
            engine.gradient(images, lambda x: em_objective(x, Objective(), None).dlogits),
        )
        for engine in pair
    )
    assert np.linalg.norm(gradient) > 0
    assert relative(other[0], deployed) < 1e-4
    assert relative(other[1], logits) < 1e-4
    assert relative(other[2], gradient) < tolerance


@pytest.mark.parametrize("source_samples", [0.0, 16.0])
def test_openvino_agrees_with_onnx_runtime(
    pair: tuple[HostEngine, HostEngine], window: Images, source_samples: float
) -> None:
    for engine in pair:
        engine.reset(tiny_settings(source_samples=source_samples))
    agree(pair, window[:BATCH], 1e-3)


def test_openvino_agrees_on_a_large_network(tmp_path: Path) -> None:
    bundle = export_bundle(load_source("efficientnet_lite0"), tmp_path / "lite0")
    photos = [PHOTOS / f"{name}.png" for name in ("astronaut", "chelsea", "coffee", "ihc")]
    images = np.stack([bundle.manifest.preprocessing(read_image(path)) for path in photos])
    # ReLU6 cuts off at 0 and at 6, and which units it cuts hangs on the last bits of sums that
    # two runtimes make in different orders.
    agree((OnnxRuntimeCPU(bundle, threads=1), OpenVINOCPU(bundle, threads=1)), images, 1e-2)


def test_bursts_flip_the_same_frames(pair: tuple[HostEngine, HostEngine], window: Images) -> None:
    settings = tiny_settings(window=WINDOW, batch_size=BATCH, steps=6, learning_rate=0.05)
    one, other = (run_burst(engine, window, settings) for engine in pair)
    np.testing.assert_array_equal(other.record.deployed.label, one.record.deployed.label)
    np.testing.assert_array_equal(other.record.before.label, one.record.before.label)
    assert one.record.affine_change > 0
    assert other.record.affine_change == pytest.approx(one.record.affine_change, rel=1e-3)
    assert (other.record.after.label != one.record.after.label).sum() <= 1
    assert [x.mean_entropy for x in other.record.steps] == pytest.approx(
        [x.mean_entropy for x in one.record.steps], rel=1e-3
    )


def test_a_burst_leaves_the_deployed_network_as_it_was(engine: HostEngine, window: Images) -> None:
    before = engine.infer(window[:BATCH])
    affine = engine.bundle.affine.copy()
    settings = tiny_settings(window=WINDOW, batch_size=BATCH, steps=6, learning_rate=0.5)
    burst = run_burst(engine, window, settings)
    assert burst.record.affine_change > 0
    assert engine.infer(window[:BATCH]).tobytes() == before.tobytes()
    np.testing.assert_array_equal(engine.bundle.affine, affine)


def test_nothing_moves_where_nothing_is_selected(engine: HostEngine, window: Images) -> None:
    settings = tiny_settings(
        objective="rdumb", entropy_margin=0.0, window=WINDOW, batch_size=BATCH, steps=2
    )
    burst = run_burst(engine, window, settings)
    assert [(x.selected, x.moved) for x in burst.record.steps] == [(0, False)] * 2
    assert burst.record.affine_change == 0
    np.testing.assert_array_equal(burst.record.after.label, burst.record.before.label)


def test_a_read_and_an_affine_gradient_are_the_callers_own(
    engine: HostEngine, window: Images
) -> None:
    batch, other = window[:BATCH], window[BATCH : 2 * BATCH]
    dlogits = np.ones((BATCH, 6), np.float32)
    dlogits[:, 0] = -5
    logits, gradient = engine.affine_gradient(batch, dlogits)
    kept = logits.copy(), gradient.copy(), engine.infer(batch)
    deployed = kept[2].copy()
    engine.affine_gradient(other, dlogits)
    engine.infer(other)
    np.testing.assert_array_equal(logits, kept[0])
    np.testing.assert_array_equal(gradient, kept[1])
    np.testing.assert_array_equal(kept[2], deployed)


def test_batches_of_any_size_in_any_order(
    pair: tuple[HostEngine, HostEngine], window: Images
) -> None:
    for size in (1, 5, 2, 7, 3, 9, 4, 1):  # more than OpenVINO keeps compiled
        one, other = (engine.infer(window[:size]) for engine in pair)
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


def test_frames_need_not_be_contiguous(pair: tuple[HostEngine, HostEngine], window: Images) -> None:
    one, other = (engine.infer(window[::-2, ::-1]) for engine in pair)
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


def test_openvino_pins_no_thread(bundle: Bundle, window: Images) -> None:
    # Pinned threads of two processes share one core. They are pinned while they compute, so an
    # observer has to look meanwhile.
    engine = OpenVINOCPU(bundle, threads=1)
    engine.infer(window)
    seen: set[frozenset[int]] = set()
    done = threading.Event()

    def observe() -> None:
        while not done.is_set():
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):  # it has ended
                    seen.add(frozenset(os.sched_getaffinity(int(thread))))
            done.wait(0.001)

    observer = threading.Thread(target=observe)
    observer.start()
    for _ in range(50):
        engine.infer(window)
    done.set()
    observer.join()
    assert seen == {frozenset(os.sched_getaffinity(0))}


def test_a_graph_that_openvino_refuses_is_named(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.folder, tmp_path / "broken")
    (tmp_path / "broken" / "probe.onnx").write_bytes(b"no graph")
    engine = OpenVINOCPU(replace(bundle, folder=tmp_path / "broken"), threads=1)
    images, _ = crops(1, seed=1)
    with pytest.raises(EdgewfError, match=r"broken: OpenVINO 20\S+ cannot .*probe graph"):
        engine.adapted_logits(images)


def test_hard_sigmoids_are_exact_where_their_offset_is_zero() -> None:
    values = np.array([-2.0, -1e-30, 0.0, 1e-20, 3.0], np.float32)
    x = ops.parameter([5], np.float32)
    slope, offset = (ops.constant(np.float32(v)) for v in (2.0**100, 0.0))
    model = ov.Model([ops.hard_sigmoid(x, slope, offset)], [x], "mask")
    spell_out_hard_sigmoids(model)
    (mask,) = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([values]).values()
    np.testing.assert_array_equal(mask, [0, 0, 0, 1, 1])


def test_openvino_reports_its_use_to_nobody() -> None:
    """Its report goes out from a fork, which has the monitor's stdout and locks."""
    code = """
import sys, threading
import edgewf.engines.openvino_cpu
assert "openvino_telemetry" not in sys.modules
assert threading.enumerate() == [threading.main_thread()]
from openvino.tools.ovc import telemetry
assert type(telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"
import openvino_telemetry
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_the_application_imported_of_the_reports_stays() -> None:
    code = """
import sys
import openvino_telemetry.utils.sender as sender
import edgewf.engines.openvino_cpu
assert sys.modules["openvino_telemetry.utils.sender"] is sender
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", [OnnxRuntimeCPU, OpenVINOCPU])
def test_a_call_under_way_can_be_cancelled_and_later_ones_are(
    bundle: Bundle, window: Images, kind: type[HostEngine]
) -> None:
    engine = kind(bundle, threads=1)
    engine.reset(tiny_settings())
    asked: list[int] = []

    def cancel_halfway(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        asked.append(len(logits))
        other = threading.Thread(target=engine.cancel)
        other.start()
        other.join(60)
        assert not other.is_alive()
        return np.ones_like(logits)

    with pytest.raises(Exception, match=r"(?i)terminate|cancel"):
        engine.gradient(window[:BATCH], cancel_halfway)
    assert asked == [BATCH]
    with pytest.raises(Exception, match=r"(?i)terminate|told to stop"):
        engine.record(window[:BATCH])
