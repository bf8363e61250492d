"""Plans on disk and `edgewf build`: built by TensorRT for RTX, which needs no GPU."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgewf.bundle import GRAPHS, Bundle
from edgewf.cli import main
from edgewf.engines import tensorrt_plans
from edgewf.engines.cuda_devices import CudaDevice, CudaDriver, NoCudaError
from edgewf.engines.tensorrt_builder import Batches
from edgewf.engines.tensorrt_plans import (
    ANY_GPU,
    Target,
    batches_for,
    plan_path,
    target_here,
)
from tests.tiny import export_tiny

RTX = Target("tensorrt_rtx_bindings 1.0", ANY_GPU)
ORIN = Target("tensorrt 10.3.0", "Orin (nvgpu) sm_8.7")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("plans"))


@pytest.fixture
def bundle(exported: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(exported.folder, tmp_path / "tiny")
    return Bundle.load(tmp_path / "tiny")


def build(bundle: Bundle, *options: str) -> Result:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (`make test` tries to)"
    )
    return CliRunner().invoke(main, ["build", str(bundle.folder), *options])


def built(result: Result) -> list[bool]:
    assert result.exit_code == 0, result.stderr
    return [engine["built"] for engine in json.loads(result.stdout)["engines"]]


def test_the_file_name_follows_everything_that_a_plan_depends_on(bundle: Bundle) -> None:
    batches = batches_for(bundle, 50)
    files = bundle.manifest.files
    other = {name: {**files[name], "sha256": "0"} for name in files}

    def path(graph: str = "forward.onnx", files: object = files, **changes: object) -> str:
        manifest = replace(bundle.manifest, files=files, **changes)
        return plan_path(replace(bundle, manifest=manifest), graph, batches, ORIN).name

    assert path().startswith("forward.Orin-nvgpu-sm-8.7.b64.")
    names = {
        path(),
        path("backward.onnx"),
        path(precision="fp16"),
        path(files={**files, "forward.onnx": other["forward.onnx"]}),
        path(files={**files, "weights.bin": other["weights.bin"]}),
        plan_path(bundle, "forward.onnx", Batches(1, 50, 65), ORIN).name,
        plan_path(bundle, "forward.onnx", batches, replace(ORIN, tensorrt="tensorrt 10.4")).name,
        plan_path(bundle, "forward.onnx", batches, replace(ORIN, gpu="Thor sm_11.0")).name,
    }
    assert len(names) == 8
    assert path(files={**files, "backward.onnx": other["backward.onnx"]}) == path()


def test_plans_take_the_bursts_batch_however_large(bundle: Bundle) -> None:
    assert batches_for(bundle, 8) == Batches(1, 50, 64)
    assert batches_for(bundle, 100) == Batches(1, 100, 100)


def test_plans_of_tensorrt_itself_are_for_the_gpu_that_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = CudaDevice("Orin (nvgpu)", "8.7", 1, integrated=True)
    monkeypatch.setattr(tensorrt_plans, "cuda_driver", lambda: CudaDriver("12.6", (device,)))
    assert target_here("tensorrt 10.3.0") == ORIN
    assert target_here(RTX.tensorrt) == RTX
    monkeypatch.setattr(tensorrt_plans, "cuda_driver", lambda: CudaDriver("12.6", ()))
    with pytest.raises(NoCudaError, match="no GPU: see whether CUDA_VISIBLE_DEVICES hides it"):
        target_here("tensorrt 10.3.0")


def test_build_makes_what_is_missing_and_no_more(bundle: Bundle) -> None:
    assert built(build(bundle, "--json")) == [True] * 4
    folder = bundle.path("engines")
    first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name.split(".")[0] for name in first} == {Path(name).stem for name in GRAPHS}
    assert built(build(bundle, "--json")) == [False] * 4
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == first
    assert Bundle.load(bundle.folder)  # plans are no part of what a bundle checks
    missing = next(folder.glob("backward.*"))
    missing.unlink()
    assert built(build(bundle, "--json")) == [False, False, False, True]
    assert missing.exists()
    assert built(build(bundle, "--json", "--force")) == [True] * 4
    assert built(build(bundle, "--json", "--batch-size", "100")) == [True] * 4
    assert len(list(folder.iterdir())) == 8


def test_a_plan_that_no_longer_fits_is_replaced(bundle: Bundle) -> None:
    assert built(build(bundle, "--json")) == [True] * 4
    folder = bundle.path("engines")
    for path in list(folder.iterdir()):  # as another version of TensorRT left them
        series = path.name.rsplit(".", 2)[0]
        path.rename(folder / f"{series}.0123456789abcdef.plan")
    foreign = folder / "forward.Thor-sm-11.0.b64.0123456789abcdef.plan"
    foreign.write_bytes(b"of another machine")
    assert built(build(bundle, "--json")) == [True] * 4
    assert len(list(folder.iterdir())) == 5
    assert foreign.exists()


def test_build_shows_a_table_on_stderr(bundle: Bundle) -> None:
    result = build(bundle)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "batch 1 to 64" in result.stderr
    assert result.stderr.count("built") == 4


def test_a_bundle_that_cannot_be_written_to_is_named(bundle: Bundle) -> None:
    bundle.path("engines").write_text("in the way")
    result = build(bundle)
    assert result.exit_code == 2
    (line,) = [x for x in result.stderr.splitlines() if "edgewf:" in x]
    assert "cannot be written" in line
    assert "run `edgewf build` once as a user who may" in line
    assert os.listdir(bundle.folder).count("engines") == 1
