"""`edgewf bench` on a real bundle and real engines: workers, results, comparison, proposals."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgewf.bench.budget import Budget, propose
from edgewf.bench.case import Case, cases, engines_here
from edgewf.bench.compare import compare
from edgewf.bench.frames import window
from edgewf.bench.parts import Stopwatch
from edgewf.bench.run import run
from edgewf.bench.table import warnings
from edgewf.bundle import Bundle
from edgewf.cli import main
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from tests import gpu_on_host
from tests.gpu_on_host import Recording
from tests.tiny import EDGEWF, export_tiny, tiny_settings

FAST = ["--seconds", "0.1", "--batch-size", "8", "--window", "16"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def result(bundle: Bundle) -> dict[str, Any]:
    """Both CPU engines, two numbers of steps, two rounds."""
    chosen = cases([bundle], engines_here(["all"]), [8], [1], [1, 2], 16)
    said: list[tuple[float, str]] = []
    found = run(chosen, seconds=0.1, rounds=2, progress=lambda *x: said.append(x))
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] < 1
    assert any("estimates with 2 steps" in doing for _, doing in said)
    loaded: dict[str, Any] = json.loads(json.dumps(found))
    return loaded


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)], prog_name="edgewf")


def test_a_result_says_what_was_measured_on_what(bundle: Bundle, result: dict[str, Any]) -> None:
    assert [case["case"]["engine"] for case in result["cases"]] == ["openvino", "onnxruntime"]
    for case in result["cases"]:
        assert case["fingerprint"] == bundle.manifest.fingerprint
        assert case["files"]["infer.onnx"] == bundle.manifest.files["infer.onnx"]["sha256"]
        assert case["case"]["settings"]["window"] == 16
        assert len(case["rounds"]) == 2
        assert [estimate["steps"] for estimate in case["estimates"]] == [1, 2]
        assert case["memory"]["peak_bytes"] >= case["memory"]["loaded_bytes"] > 50 << 20
    assert result["environment"]["machine"]["cpus"] == os.cpu_count()
    assert result["environment"]["packages"]["numpy"] == np.__version__


def test_the_parts_of_a_step_add_up_to_it(result: dict[str, Any]) -> None:
    openvino, onnxruntime = (case["seconds"] for case in result["cases"])
    assert {"forward", "objective", "backward", "update"} < onnxruntime.keys()
    assert {"forward_backward", "objective", "update"} < openvino.keys()
    assert not {"forward", "backward"} & openvino.keys(), "one graph, so no split is made up"
    for case in result["cases"]:
        for measured in case["rounds"]:
            seconds = measured["seconds"]
            parts = [
                seconds[name]
                for name in ("forward", "objective", "backward", "forward_backward", "update")
                if name in seconds
            ]
            for whole, *pieces in zip(seconds["step"], *parts, strict=True):
                assert sum(pieces) == pytest.approx(whole, rel=1e-6)


def test_derived_figures_follow_from_the_samples(result: dict[str, Any]) -> None:
    for case in result["cases"]:
        samples = [x for r in case["rounds"] for x in r["seconds"]["step"]]
        assert case["seconds"]["step"]["p50"] == pytest.approx(np.median(samples))
        assert case["images_per_second"]["step"] == pytest.approx(8 / np.median(samples))
        laps = {name: value for name, value in case["startup"].items() if name != "total"}
        assert case["startup"]["total"] == pytest.approx(sum(laps.values()))
        assert laps.keys() == {
            *("python", "imports", "bundle", "engine", "first_step", "first_inference")
        }


def test_the_stopwatch_measures_the_engines_own_step(bundle: Bundle) -> None:
    images = window(bundle.manifest.preprocessing, 8)
    burst = tiny_settings()
    plain, watched = (OnnxRuntimeCPU(bundle, threads=1) for _ in range(2))
    plain.reset(burst)
    plain.step(images)
    durations = Stopwatch(watched, lambda: watched.reset(burst)).step(images)
    np.testing.assert_array_equal(watched.affine, plain.affine)
    assert list(durations) == ["step", "forward", "backward", "objective", "update"]
    assert all(value > 0 for value in durations.values())


def test_a_step_on_a_gpu_has_its_upload_and_waits_at_its_end(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = gpu_on_host.use(monkeypatch)
    engine = Recording(bundle, gpu_on_host.gpu_module.Gpu())
    burst = tiny_settings()
    images = window(bundle.manifest.preprocessing, 8)
    stopwatch = Stopwatch(engine, lambda: engine.reset(burst))
    stopwatch.step(images)
    log.clear()
    durations = stopwatch.step(images)
    # Two resets, the step that is timed whole, and the one that is timed in parts.
    assert log.count("wait") == 4
    assert durations.pop("step") > 0
    assert durations == dict.fromkeys(
        ("upload", "forward", "objective", "backward", "update"), pytest.approx(2e-3)
    )
    assert engine.read().steps[0].moved
    for call in (stopwatch.record, stopwatch.probe, stopwatch.inference):
        (seconds,) = call(images).values()
        assert seconds > 0


def test_an_engine_that_fails_is_recorded_and_the_others_go_on(
    bundle: Bundle, tmp_path: Path
) -> None:
    good = cases([bundle], ["onnxruntime"], [8], [1], [1], 16)[0]
    bad = Case(str(tmp_path / "gone"), "onnxruntime", 1, good.settings, (1,))
    with pytest.raises(EdgewfError, match="no such bundle folder"):
        run([bad], seconds=0.1, rounds=1, progress=lambda *x: None)
    ghost = Case(good.bundle, "tensorrt", None, good.settings, (1,))
    found = run([ghost, good], seconds=0.1, rounds=1, progress=lambda *x: None)
    assert "engine tensorrt cannot run here" in found["cases"][0]["error"]
    assert found["cases"][1]["seconds"]["step"]["p50"] > 0


def test_a_worker_that_dies_is_told_apart(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = cases([bundle], ["onnxruntime"], [8], [1], [1], 16)
    for command, reason in (
        ("kill -9 $$", "most likely because memory ran out"),
        ("echo broken library >&2; exit 3", r"status 3 \(broken library\)"),
    ):
        monkeypatch.setattr("edgewf.bench.run._COMMAND", ("sh", "-c", command))
        with pytest.raises(EdgewfError, match=reason):
            run(chosen, seconds=0.1, rounds=1, progress=lambda *x: None)


def test_a_result_compared_with_itself_does_not_differ(result: dict[str, Any]) -> None:
    found = compare(result, result)
    assert {x.ratio for x in found} == {1.0}
    assert not any(x.beyond_noise for x in found)
    assert {x.measurement for x in found} >= {"step", "inference", "estimate of 16 frames, 2 steps"}


def test_a_result_that_is_twice_as_slow_is_seen(result: dict[str, Any]) -> None:
    calm = copy.deepcopy(result)
    for case in calm["cases"]:
        for i, measured in enumerate(case["rounds"]):
            measured["seconds"]["step"] = [1.0 + 0.001 * i] * 10
    slow = copy.deepcopy(calm)
    for case in slow["cases"]:
        for measured in case["rounds"]:
            measured["seconds"]["step"] = [2 * x for x in measured["seconds"]["step"]]
    steps = [x for x in compare(calm, slow) if x.measurement == "step"]
    assert [round(x.ratio, 6) for x in steps] == [2.0, 2.0]
    assert all(x.beyond_noise for x in steps)


def test_devices_with_different_engines_are_compared_by_model(result: dict[str, Any]) -> None:
    one, other = copy.deepcopy(result), copy.deepcopy(result)
    one["cases"], other["cases"] = one["cases"][:1], other["cases"][1:]
    found = compare(one, other)
    assert found[0].case != found[0].later_case
    other["cases"][0]["fingerprint"] = "another model"
    with pytest.raises(EdgewfError, match="no case in common"):
        compare(one, other)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [("100ms", 0.1, "s"), ("1.5 s", 1.5, "s"), ("5J", 5.0, "J"), ("250mJ", 0.25, "J")],
)
def test_budgets_are_read(text: str, amount: float, unit: str) -> None:
    assert Budget.parse(text) == Budget(pytest.approx(amount), unit)


@pytest.mark.parametrize("text", ["", "ms", "5", "-1s", "0ms", "3 parsecs", "1e3s"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(EdgewfError, match="give a time or an energy"):
        Budget.parse(text)


def test_the_usual_burst_is_proposed_where_it_fits(bundle: Bundle, result: dict[str, Any]) -> None:
    usual = {str(bundle.folder): tiny_settings(window=32)}
    best = propose(Budget(1e3, "s"), result["cases"], usual)[0]
    assert best.as_usual
    assert best.options.endswith("--threads 1 --batch-size 8 --window 32 --steps 2")


def test_proposals_fit_and_more_budget_buys_no_less(bundle: Bundle, result: dict[str, Any]) -> None:
    usual = {str(bundle.folder): tiny_settings(window=400)}
    full = max(x.cost for x in propose(Budget(1e3, "s"), result["cases"], usual))
    sizes = []
    for share in np.geomspace(0.1, 1.1, 30):
        budget = Budget(full * float(share), "s")
        found = propose(budget, result["cases"], usual)
        assert all(x.cost <= budget.amount and x.steps <= 2 for x in found)
        sizes.append((found[0].window, found[0].steps))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1] == (400, 2)
    with pytest.raises(EdgewfError, match=r"no burst fits .* 16 frames, 0 steps"):
        propose(Budget(full / 1e6, "s"), result["cases"], usual)


def test_energy_stands_in_for_time(bundle: Bundle, result: dict[str, Any]) -> None:
    usual = {str(bundle.folder): tiny_settings(window=32)}
    with pytest.raises(EdgewfError, match="too shortly"):
        propose(Budget(5.0, "J"), result["cases"], usual)
    drawn = copy.deepcopy(result)
    for case in drawn["cases"]:
        for estimate in case["estimates"]:
            estimate["joules"] = 10 * estimate["seconds"]["p50"]
    cheap = propose(Budget(1e3, "J"), drawn["cases"], usual)[0]
    same = propose(Budget(1e3, "s"), result["cases"], usual)[0]
    assert cheap.cost == pytest.approx(10 * same.cost)


def test_the_command_prints_a_table_and_draws(bundle: Bundle, tmp_path: Path) -> None:
    picture = tmp_path / "step.svg"
    options = [*FAST, "--rounds", 2, "--engine", "onnxruntime", "--plot", picture]
    done = call(bundle.folder, *options)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout == ""
    for words in ("inference", "an estimate", "objective", "first", "no sensor"):
        assert words in done.stderr
    assert "deployed inference" in picture.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["step.svg"]


def test_the_command_compares_and_proposes_as_json(bundle: Bundle, tmp_path: Path) -> None:
    options = [*FAST, "--rounds", 2, "--engine", "onnxruntime", "--threads", 1, "--json"]
    before = tmp_path / "before.json"
    first = call(bundle.folder, *options)
    assert first.exit_code == 0, (first.output, first.exception)
    before.write_text(first.stdout)
    done = call(before, bundle.folder, *options, "--compare", "--budget", "100 s")
    assert done.exit_code == 0, (done.output, done.exception)
    (line,) = done.stdout.splitlines()
    record = json.loads(line)
    assert record["comparisons"][0]["before"] == "before.json"
    assert 0 < record["proposals"][0]["verified"] < 100
    shown = call("--compare", before, before)
    assert shown.exit_code == 0, (shown.output, shown.exception)
    assert shown.stdout == ""
    assert shown.stderr.count("within noise") >= 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "no such bundle folder"),
        (["BUNDLE", "--engine", "tensorrt"], "engine tensorrt cannot run here"),
        (["BUNDLE", "--compare"], "--compare needs two FILEs"),
        (["FILE"], "is a file: give a BUNDLE"),
        (["--compare", "FILE", "FILE"], "not a result of"),
        (["BUNDLE", "--budget", "cheap"], "give a time or an energy"),
        (["BUNDLE", "--plot", "step.jpg"], "ends in .png or .svg"),
        (["BUNDLE", "--plot", "gone/step.png"], "no folder gone"),
    ],
)
def test_bad_input_is_one_line(
    bundle: Bundle, tmp_path: Path, arguments: list[str], message: str
) -> None:
    file = tmp_path / "other.json"
    file.write_text("{}")
    names = {"BUNDLE": str(bundle.folder), "FILE": str(file)}
    done = call(*(names.get(x, x) for x in arguments))
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stdout == ""
    assert re.fullmatch(r"edgewf: [^\n]+\n", done.stderr), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": "edgewf bench"}, "result format None, and this edgewf reads 1: measure again"),
        ({"format": "edgewf bench", "format_version": 1, "cases": 5}, "no list of cases"),
    ],
)
def test_a_damaged_result_is_named(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content))
    done = call("--compare", file, file)
    assert done.exit_code == 2, (done.output, done.exception)
    assert re.fullmatch(rf"edgewf: {re.escape(str(file))}: .*{message}.*\n", done.stderr)


def test_an_energy_budget_needs_a_sensor(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewf.bench.budget.power_sources", lambda **_: [])
    done = call(bundle.folder, "--budget", "5J")
    assert done.exit_code == 2
    assert "no sensor tells the energy here" in done.stderr


def test_wide_spreads_are_called_noisy(result: dict[str, Any]) -> None:
    noisy = copy.deepcopy(result)
    noisy["cases"][0]["seconds"]["step"]["spread"] = 0.5
    noisy["cases"][0]["unstable"] = ["step"]
    found = warnings(noisy)
    assert any("interquartile range" in x and "step 50 %" in x for x in found)
    assert any("not stable" in x for x in found)


def test_ctrl_c_ends_the_worker_too(bundle: Bundle) -> None:
    child = subprocess.Popen(
        [*EDGEWF, "bench", str(bundle.folder), "--seconds", "60", "--engine", "onnxruntime"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    workers: list[int] = []
    end = time.monotonic() + 30
    while not workers and time.monotonic() < end:
        workers = _children(child.pid)
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (130, "")
    assert "interrupted" in err
    assert workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(x) for x in found.read_text().split()] if found.exists() else []
