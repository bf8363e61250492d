"""The GPU check without a GPU: its stages on stand-ins, and what is said of missing parts."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import __main__ as check
from benchmarks.gpu import engines, environment, stages
from benchmarks.gpu.report import folder_name, markdown
from benchmarks.gpu.stages import PICTURES, Outcome, Stage
from benchmarks.pictures import photographs
from edgewf.bundle import Bundle
from edgewf.engines.device import DeviceEngine
from edgewf.engines.gpu import Gpu
from tests import gpu_on_host
from tests.gpu_on_host import Recording
from tests.tiny import export_tiny


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("gpu-check")
    np.savez(folder / PICTURES, *photographs())
    return export_tiny(folder)


@pytest.fixture
def engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> DeviceEngine:
    gpu_on_host.use(monkeypatch)
    found = Recording(bundle, Gpu())
    monkeypatch.setattr(engines, "open_engine", lambda name, bundle: found)
    return found


Stages = Callable[..., Outcome]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Runs lines of Python as a stage."""
    monkeypatch.chdir(tmp_path)

    def run(*code: str, limit: float = 30.0, correctness: bool = True) -> Outcome:
        lines = ("import json, os, sys, time", *code)
        (tmp_path / "a_stage.py").write_text("\n".join(lines))
        made = Stage("a stage", ("a_stage",), limit, correctness)
        return stages.run(made, sys.executable, tmp_path, left=60.0)

    return run


def test_an_engine_that_is_right_agrees(bundle: Bundle, engine: DeviceEngine) -> None:
    records = list(engines.agreement("on-host", bundle))
    assert [record["passed"] for record in records] == [True] * 5
    assert records[0]["relative_error"] < 1e-5
    assert records[1]["same_labels"] == {"deployed": 1.0, "before": 1.0, "after": 1.0}


def test_an_engine_that_is_wrong_does_not(
    bundle: Bundle, engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph_type = type(engine.load("backward.onnx", 32))
    enqueue = graph_type.enqueue

    def twice(graph: Any, batch: int, addresses: dict[str, int]) -> None:
        enqueue(graph, batch, addresses)
        if "affine_grad" in graph.tensors:  # a gradient twice as large
            size = graph.tensors["affine_grad"].size(batch)
            block = (ctypes.c_float * (size // 4)).from_address(addresses["affine_grad"])
            np.frombuffer(block, np.float32)[:] *= 2

    monkeypatch.setattr(graph_type, "enqueue", twice)
    records = {record["check"]: record for record in engines.agreement("on-host", bundle)}
    assert not records["gradient against the CPU"]["passed"]
    assert records["gradient against the CPU"]["relative_error"] == pytest.approx(1, rel=1e-3)


def test_waits_inside_a_burst_are_counted(
    bundle: Bundle, engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = type(engine).step

    def waiting(self: DeviceEngine, images: Any) -> None:
        step(self, images)
        self.gpu.wait()

    monkeypatch.setattr(type(engine), "step", waiting)
    records = {record["check"]: record for record in engines.agreement("on-host", bundle)}
    assert records["waits inside a burst"] == {
        "check": "waits inside a burst",
        "waits": [engines.STEPS, engines.STEPS],
        "passed": False,
    }


def test_latency_takes_every_batch_size(
    bundle: Bundle, engine: DeviceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "REPEATS", 1)
    monkeypatch.setattr(engines, "STEPS", 2)
    monkeypatch.setattr(engines, "WINDOW", 64)
    records = list(engines.latency("on-host", bundle))
    assert [record["batch"] for record in records] == list(engines.BATCHES)
    for record in records:
        assert 0 < record["step_ms"] < record["burst_ms"]


def test_a_missing_bundle_says_where_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "CANDIDATES", ())
    lack = engines.missing("agreement", "ort-cuda", tmp_path / "resnet50")
    assert lack is not None
    assert "manifest.json: make it where PyTorch is, with `python -m benchmarks.gpu.bund" in lack


def test_a_stage_is_passed_failed_or_measured_by_its_records(stage: Stages) -> None:
    assert stage("print(json.dumps({'passed': True}))").status == "passed"
    assert stage("print(json.dumps({'seconds': 1}))").status == "measured"
    assert stage("print(json.dumps({'skipped': 'no pycuda'}))").reason == "no pycuda"
    wrong = "print(json.dumps({'passed': False})); sys.exit(1)"
    assert stage(wrong).broken
    assert stage(wrong, correctness=False).status == "missed"
    assert not stage(wrong, correctness=False).broken


def test_a_stage_that_crashes_or_hangs_keeps_what_it_had_found(stage: Stages) -> None:
    first = "print(json.dumps({'passed': True}), flush=True)"
    crashed = stage(first, "sys.stderr.write('boom')", "os.kill(os.getpid(), 11)")
    assert (crashed.status, crashed.broken, len(crashed.records)) == ("crashed", True, 1)
    assert "-11" in crashed.reason
    assert "boom" in crashed.reason
    half = "print('{\"passed\": tr', end='', flush=True)"
    hung = stage(first, half, "time.sleep(60)", limit=2.0)
    assert (hung.status, hung.broken, len(hung.records)) == ("timed out", True, 1)
    assert stage("pass").status == "crashed"  # a check that says nothing has checked nothing


def test_what_has_no_time_left_is_skipped() -> None:
    late = stages.run(Stage("late", ("this",), 10.0), sys.executable, Path("nowhere"), left=-1.0)
    assert (late.status, late.reason) == ("skipped", "no time was left")


def test_the_command_reports_every_stage_here(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU each stage is skipped with its reason; with one the chosen ones pass."""
    monkeypatch.chdir(tmp_path)
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    np.savez(bundles / PICTURES, *photographs())
    output = tmp_path / "results"
    only = ["--only", "kernels/reproducibility", "--only", "agreement/efficientnet_lite0/ort"]
    assert check.main([*only, "--bundles", str(bundles), "--output", str(output)]) == 0
    record = json.loads((output / "report.json").read_text())
    outcomes = {x["stage"]: x for x in record["stages"]}
    assert list(outcomes) == [
        "machine",
        "kernels/reproducibility",
        "agreement/efficientnet_lite0/ort-cuda",
        "agreement/efficientnet_lite0/ort-tensorrt",
    ]
    assert outcomes["machine"]["status"] == "measured"
    assert {x["status"] for x in outcomes.values()} <= {"measured", "skipped", "passed"}
    assert all(x["reason"] for x in outcomes.values() if x["status"] == "skipped")
    assert "| kernels/reproducibility |" in (output / "report.md").read_text()
    assert not list(output.glob("*.partial"))


def test_a_failed_check_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken = Stage("kernels/correctness", ("benchmarks.gpu.nothing",), 20.0, True)
    monkeypatch.setattr(check, "stages", lambda: (broken,))
    np.savez(tmp_path / PICTURES, *photographs())
    arguments = ["--bundles", str(tmp_path), "--output", str(tmp_path / "out")]
    assert check.main(arguments) == 1
    assert "**Failed: kernels/correctness.**" in (tmp_path / "out" / "report.md").read_text()


def test_an_unknown_stage_or_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--only", "kernel-speed"]) == 2
    assert "no such stage; there are kernels/correctness" in capsys.readouterr().err
    assert check.main(["--wheels", "/no/such/folder"]) == 2
    assert "/no/such/folder: no such folder" in capsys.readouterr().err


def test_packages_that_are_not_among_the_wheels_are_named(tmp_path: Path) -> None:
    made = environment.make(tmp_path / "venv", tmp_path, tmp_path / "no-repository")
    assert Path(made.python).is_file()
    assert any(problem.startswith("pycuda: ") for problem in made.problems)
    assert any(problem.startswith("edgewf: ") for problem in made.problems)
    assert not made.usable


def test_the_report_sets_times_beside_pytorch() -> None:
    def timed(stage: str, **record: Any) -> Outcome:
        return Outcome(stage, "measured", False, 1.0, (record,), "")

    text = markdown(
        {},
        [
            timed(
                "latency/resnet50/tensorrt",
                engine="tensorrt",
                model="resnet50",
                precision="fp32",
                batch=8,
                step_ms=2.0,
                burst_ms=30.0,
                infer_ms=1.0,
                window=256,
                steps=10,
                device_MiB=500.0,
            ),
            timed(
                "torch/resnet50",
                row="PyTorch 2.13 eager fp32",
                model="resnet50",
                batch=8,
                step_ms=9.0,
                device_MiB=900.0,
            ),
        ],
        ("pycuda: no compiler",),
    )
    assert "| resnet50 | 8 | edgewf, tensorrt, fp32 | 2.00 | 4.50 | 1.00 | 30 | 500 |" in text
    assert "- pycuda: no compiler" in text
    assert folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert folder_name(None) == "no-gpu"


def test_the_driver_process_needs_nothing_installed(tmp_path: Path) -> None:
    """`python3 -m benchmarks.gpu --wheels` runs before anything is installed."""
    for name in ("__init__.py", "gpu"):
        source = check.REPOSITORY / "benchmarks" / name
        target = tmp_path / "benchmarks" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
            "import runpy; sys.argv[1:] = ['--help']; runpy.run_module('benchmarks.gpu', "
            "run_name='__main__')",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--wheels" in done.stdout
