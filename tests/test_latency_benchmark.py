"""The latency benchmark's own parts: rows as processes, counted work, records, what is reported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.latency import report
from benchmarks.latency.profile import ENGINES, KINDS, kind_of, profile
from benchmarks.latency.protocol import Process, RowError, processes
from benchmarks.latency.records import Records
from benchmarks.latency.report import profiles
from benchmarks.latency.roofline import Cost, Machine, step_cost
from benchmarks.latency.rows import EAGER
from benchmarks.latency.scaling import relative
from benchmarks.latency.side_by_side import Setting, key
from edgewf.bench.frames import window
from edgewf.bundle import Bundle
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.kernels.reference import Objective, em_objective
from tests.tiny import export_tiny

ROWS = [sys.executable, "-m", "benchmarks.latency.rows"]
MACHINE = Machine(flops=1e9, bandwidth=1e9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("latency"))


def test_a_row_answers_from_a_process_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    images = window(bundle.manifest.preprocessing, 8)
    np.save(tmp_path / "images.npy", images)
    order = {
        "row": "edgewf, onnxruntime",
        "model": "tiny",
        "classes": 6,
        "bundle": str(bundle.folder),
        "images": str(tmp_path / "images.npy"),
        "threads": 1,
    }
    with processes() as running:
        running["ours"] = process = Process(ROWS, order)
        process.gradient(tmp_path / "gradient.npy")
        assert process.step() > 0
        assert process.infer() > 0
        memory = process.memory()
        assert memory["peak"] > memory["before_loading"] > 1 << 20
    engine = OnnxRuntimeCPU(bundle, threads=1)
    expected = engine.gradient(images, lambda x: em_objective(x, Objective(), None).dlogits)
    np.testing.assert_allclose(np.load(tmp_path / "gradient.npy"), expected, rtol=1e-5, atol=1e-7)


def test_a_row_that_cannot_run_says_why(bundle: Bundle, tmp_path: Path) -> None:
    order = {"row": "edgewf, onnxruntime", "bundle": str(tmp_path / "gone"), "threads": 1}
    with pytest.raises(RowError, match=r"status 1: .*no such bundle folder"):
        Process(ROWS, order)


def test_counted_operations_are_the_manifests(bundle: Bundle) -> None:
    cost = step_cost(bundle)
    assert cost.flops == 2 * bundle.manifest.multiply_adds
    # Three convolutions and a linear layer each way, less the input's gradient; 4 bytes a number.
    sizes = {"image": 3 * 32 * 32, "a": 16 * 16 * 16, "b": 32 * 8 * 8, "c": 32 * 4 * 4}
    forward = (sizes["image"] + sizes["a"]) + (sizes["a"] + sizes["b"]) + (sizes["b"] + sizes["c"])
    backward = (sizes["b"] + sizes["a"]) + (sizes["c"] + sizes["b"])
    assert cost.activations == 4 * (forward + backward + 2 * (32 + 6))


def test_the_roof_is_the_slower_of_processor_and_memory() -> None:
    assert Cost(2e9, 1e6, 0).seconds(MACHINE, 4) == pytest.approx(8.0)
    assert Cost(1e6, 2e9, 1e9).seconds(MACHINE, 4) == pytest.approx(9.0)
    assert Cost(6e9, 2e9, 4e9).intensity(2) == pytest.approx(1.5)


def test_records_outlive_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    Records(path).add("a", {"x": 1})
    with path.open("a") as file:
        file.write('{"key": "b", "val')
    again = Records(path)
    assert again.get("a") == {"x": 1}
    assert again.get("b") is None
    assert list(again) == [{"x": 1}]


def test_a_measurement_is_kept_for_its_own_settings_alone() -> None:
    one = key(Setting("resnet18"), ["a", "b"], 15)
    assert one == key(Setting("resnet18"), ["b", "a"], 15)
    assert one != key(Setting("resnet18", batch=8), ["a", "b"], 15)
    assert one != key(Setting("resnet18"), ["a", "b"], 1)


def _row(step: float, error: float = 1e-5) -> dict[str, Any]:
    memory = {"peak": 1 << 30, "before_loading": 1 << 20}
    return {"step": [step], "infer": [0.1], "error": error, "memory": memory, "start_seconds": 1.0}


def _result(**rows: dict[str, Any]) -> dict[str, Any]:
    named = {"edgewf, openvino": rows["ours"], EAGER: rows["eager"], **rows.get("others", {})}
    return {"setting": {"model": "resnet50", "batch": 1}, "rows": named}


def test_targets_stand_beside_their_figures() -> None:
    others = {"torch.compile": _row(0.4, error=0.5), "slow": _row(0.3), "broken": {"failed": "no"}}
    text = report.targets([_result(ours=_row(0.25), eager=_row(0.6), others=others)])
    assert "2 x as fast as PyTorch eager | 2.40 | met" in text
    assert "faster than every row (slow) | 1.20 | met" in text
    assert "at most 3 x infer | 2.5 | met" in text
    late = report.targets([_result(ours=_row(0.5), eager=_row(0.6), others=others)])
    assert late.count("missed") == 3


def test_a_row_with_another_gradient_is_marked() -> None:
    others = {"bf16": _row(0.1, error=0.2), "broken": {"failed": "no gradient | of it"}}
    costs = {"resnet50": Cost(1e8, 1e6, 0)}
    result = _result(ours=_row(0.25), eager=_row(0.5), others=others)
    lines = report.side_by_side([result], costs, MACHINE).splitlines()
    marked = [line for line in lines if "not the same" in line]
    assert len(marked) == 1
    assert "bf16" in marked[0]
    assert "does not run: … no gradient / of it" in lines[-1]
    assert "| 2.00 | 0.40 |" in lines[2], "against eager, and the limit of 0.1 s"


def test_times_off_the_straight_line_are_in_bold() -> None:
    found = [
        (Setting("m", batch=n), {"rows": {"r": {"step": [seconds]}}})
        for n, seconds in ((2, 0.2), (4, 0.4), (8, 0.8), (16, 3.2))
    ]
    assert relative("batch", found, "r") == pytest.approx([1.0, 1.0, 1.0, 2.0])
    text = report.scaling({"batch": found})
    assert [line for line in text.splitlines() if "**" in line] == ["| 16 | **3.200 s (2.00)** |"]


def test_pictures_are_drawn(tmp_path: Path) -> None:
    results = [_result(ours=_row(0.25), eager=_row(0.5), others={"bf16": _row(0.1, error=0.2)})]
    report.draw(results, {"resnet50": Cost(1e8, 1e6, 0)}, MACHINE, tmp_path / "latency.png")
    found = [(Setting("m", batch=n), {"rows": {"r": {"step": [n / 10]}}}) for n in (2, 4)]
    report.scaling_picture({"batch": found, "side": []}, tmp_path / "scaling.png")
    assert all((tmp_path / f"{x}.png").stat().st_size > 5000 for x in ("latency", "scaling"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_profile_accounts_for_the_step(bundle: Bundle, engine: str) -> None:
    found = profile(bundle, engine, 8, 1)
    assert list(found.kinds) == list(KINDS)
    assert min(found.kinds["convolutions"], found.kinds["elementwise"]) > 0
    assert 0 < sum(found.kinds.values()) < 1.5 * found.seconds
    assert sum(found.operators.values()) <= sum(found.kinds.values()) + 1e-9
    text = profiles({("tiny", engine): found})
    assert f"| tiny | {engine} |" in text


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("Conv", "convolutions"),
        ("GroupConvolutionBackpropData", "convolutions"),
        ("ReduceMean", "reductions"),
        ("GlobalAveragePool", "reductions"),
        ("Subgraph", "elementwise"),
        ("HardSigmoid", "elementwise"),
        ("ReorderOutput", "layouts and copies"),
        ("Identity", "others"),
    ],
)
def test_operators_are_sorted(operator: str, kind: str) -> None:
    assert kind_of(operator) == kind
