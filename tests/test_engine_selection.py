"""Which engine is chosen, and what a choice that cannot be had says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.commands.options import ENGINES
from edgewf.engines import Engine, Role, select
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.engines.select import AUTO, CANDIDATES, Candidate, Lack, select_engine
from edgewf.errors import EdgewfError
from edgewf.monitor import Monitor
from tests.tiny import crops, export_tiny, tiny_settings

*GPU, OPENVINO, ONNXRUNTIME = CANDIDATES
FIRST, SECOND, THIRD = (replace(OPENVINO, name=name) for name in ("first", "second", "third"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("selection"))


def lacking(candidate: Candidate, what: str | None = None) -> Candidate:
    """A copy that lacks something, or nothing."""

    def lacks() -> Iterator[Lack]:
        if what is not None:
            yield Lack(what, "get one")
            yield Lack("time", "wait")

    return replace(candidate, lacks=lacks)


def test_the_command_line_offers_every_engine() -> None:
    assert list(ENGINES) == [AUTO, *(candidate.name for candidate in CANDIDATES)]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_engine_asked_for_is_loaded(bundle: Bundle, name: str) -> None:
    if name == "openvino":
        pytest.importorskip("edgewf.engines.openvino_module", reason="OpenVINO is not installed")
    selection = select_engine(name, bundle, threads=1)
    assert selection.engine.name == name
    assert str(selection) == f"engine {name}: as asked for"


def test_beside_another_engine_idle_threads_of_onnxruntime_sleep(bundle: Bundle) -> None:
    """They would spin, and bursts wait for cores that nobody wants."""
    for role, spinning in ((Role.INFERENCE, "0"), (Role.BURSTS, "0"), (Role.ALONE, None)):
        engine = select_engine("onnxruntime", bundle, role=role).engine
        assert isinstance(engine, OnnxRuntimeCPU)
        options = engine._forward.get_session_options()
        key = "session.intra_op.allow_spinning"
        if spinning is None:
            with pytest.raises(RuntimeError, match=key):  # never set: the runtime's own choice
                options.get_session_config_entry(key)
        else:
            assert options.get_session_config_entry(key) == spinning


def test_bursts_beside_inference_leave_it_the_workers_of_openvino(bundle: Bundle) -> None:
    openvino_cpu = pytest.importorskip("edgewf.engines.openvino_cpu", reason="no OpenVINO")

    def threads(role: Role, asked: int | None = None) -> int:
        engine = openvino_cpu.OpenVINOCPU(bundle, asked, role)
        compiled = engine._request("infer", 1).get_compiled_model()
        found: int = compiled.get_property("INFERENCE_NUM_THREADS")
        return found

    for duty, expected in ((0.5, 1), (1.0, threads(Role.ALONE))):
        with Monitor(bundle, engine="openvino", duty_cycle=duty) as monitor:
            compiled = monitor._estimator.engine._request("infer", 1).get_compiled_model()
            assert compiled.get_property("INFERENCE_NUM_THREADS") == expected
    assert threads(Role.BURSTS) == 1
    assert threads(Role.BURSTS, asked=2) == 2
    assert threads(Role.INFERENCE) == threads(Role.ALONE)


def test_openvino_compiles_before_a_burst_not_in_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling holds up whoever runs Python beside it, for seconds with a large network."""
    openvino_cpu = pytest.importorskip("edgewf.engines.openvino_cpu", reason="no OpenVINO")
    settings = tiny_settings()
    with Monitor(bundle, engine="openvino") as monitor:
        engine = monitor._estimator.engine
        default = bundle.manifest.burst
        assert set(engine._compiled) == {
            (g, default.batch_size) for g in ("infer", "probe", "step")
        }
    engine = openvino_cpu.OpenVINOCPU(bundle)
    engine.reset(settings)

    def compile_late(graph: str) -> None:
        pytest.fail(f"compiles its {graph} graph in the burst")

    monkeypatch.setattr(engine, "_model", compile_late)
    images, _ = crops(settings.window, seed=5)
    run_burst(engine, images[: settings.window], settings)


def test_an_unknown_engine_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EdgewfError, match=r"unknown engine 'tpu': use one of auto, tensorrt, .*"):
        select_engine("tpu", bundle)


def test_an_engine_that_cannot_run_says_all_that_is_missing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "CANDIDATES", (lacking(ONNXRUNTIME, "no processor"),))
    with pytest.raises(EdgewfError, match=r"onnxruntime cannot run .*no processor: get one; time:"):
        select_engine("onnxruntime", bundle)


def test_auto_takes_the_first_that_can_run_and_says_what_the_better_ones_lack(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = (
        lacking(FIRST, "no GPU"),
        lacking(SECOND, "no CUDA"),
        lacking(THIRD, "no GPU"),
        replace(OPENVINO, automatic=True, lacks=ONNXRUNTIME.lacks, factory=ONNXRUNTIME.factory),
        replace(ONNXRUNTIME, factory="tests.test_engine_selection:refuse"),
    )
    monkeypatch.setattr(select, "CANDIDATES", candidates)
    assert select_engine(AUTO, bundle, threads=1).reason == (
        "the fastest that can run here (first, third: no GPU; second: no CUDA)"
    )


def test_auto_passes_over_what_does_not_load_and_what_was_not_measured_here(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(lacking(FIRST), automatic=True, factory="tests.test_engine_selection:refuse")
    slow = replace(lacking(OPENVINO), automatic=False)
    monkeypatch.setattr(select, "CANDIDATES", (broken, slow, ONNXRUNTIME))
    selection = select_engine(AUTO, bundle, threads=1)
    assert selection.engine.name == "onnxruntime"
    assert selection.reason == "the fastest that can run here (first: out of memory)"


def refuse(bundle: Bundle, threads: int | None, role: Role) -> Engine:
    raise EdgewfError("out of memory")


def test_selection_imports_only_the_chosen_runtime(bundle: Bundle) -> None:
    script = f"""
import sys
from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.engines.select import select_engine
select_engine("onnxruntime", Bundle.load({str(bundle.folder)!r}), 1)
print([name for name in ("openvino", "tensorrt", "pycuda", "torch", "onnx") if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "[]"


def test_gpu_engines_name_the_driver_that_is_missing(bundle: Bundle) -> None:
    first = next(GPU[0].lacks(), None)
    if first is None or "driver" not in first.what:
        pytest.skip("this machine has an NVIDIA driver")
    for candidate in GPU:
        with pytest.raises(EdgewfError, match=r"engine \S+ cannot run here: no NVIDIA driver"):
            select_engine(candidate.name, bundle)
