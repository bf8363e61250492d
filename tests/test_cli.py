"""The command line on a real bundle: what goes to stdout, exit statuses, and errors in one line."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgewf import __version__
from edgewf.alerts.webhook import signature
from edgewf.bundle import CALIBRATION, Bundle
from edgewf.calibration import Calibration
from edgewf.cli import main
from edgewf.engines.select import CANDIDATES
from edgewf.settings import BurstSettings
from tests.receiver import Receiver
from tests.tiny import (
    CLASSES,
    EDGEWF,
    KEYS,
    USED,
    constant_calibration,
    export_tiny,
    tiny_settings,
    write_class_folders,
)

COMMANDS = ["export", "inspect", "doctor", "bench", "calibrate", "estimate", "monitor"]
SETTINGS = tiny_settings(window=16, batch_size=8, steps=2)
BURST = ["--window", "16", "--batch-size", "8", "--steps", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle without a calibration."""
    return export_tiny(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def calibrated(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle whose estimates are always 50 %."""
    folder = tmp_path_factory.mktemp("calibrated") / "bundle"
    shutil.copytree(plain.folder, folder)
    constant_calibration(plain, SETTINGS, accuracy=50.0).write(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_class_folders(tmp_path_factory.mktemp("photographs"), count=10, seed=2))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("video") / "shades.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(20):
        blocks = rng.integers(0, 256, (6, 8, 3), np.uint8)
        writer.write(np.kron(blocks, np.ones((8, 8, 1), np.uint8)))
    writer.release()
    return str(path)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="edgewf")


def succeed(*arguments: str) -> Result:
    result = call(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def fail(message: str, *arguments: str) -> None:
    """Expect exit status 2 and one line on stderr that says what is wrong."""
    result = call(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    assert re.fullmatch(r"edgewf: [^\n]+\n", result.stderr), result.stderr
    assert re.search(message, result.stderr), result.stderr


def only_object(result: Result) -> dict[str, Any]:
    """Expect exactly one line of JSON on stdout."""
    (line,) = result.stdout.splitlines()
    record = json.loads(line)
    assert isinstance(record, dict)
    return record


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_gives_an_example(command: str) -> None:
    text = succeed(command, "--help").stdout
    assert f"Usage: edgewf {command}" in text
    assert re.search(rf"Examples?:\s+edgewf {command}", text)
    assert succeed(command, "-h").stdout == text


def test_help_lists_the_commands() -> None:
    text = succeed("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", text, re.MULTILINE)
    assert __version__ in succeed("--version").stdout


def test_help_imports_nothing_heavy() -> None:
    script = f"""
import sys
import edgewf
from edgewf.cli import main
for command in {[[], *([c] for c in COMMANDS)]}:
    main([*command, "--help"], standalone_mode=False)
heavy = ["torch", "torchvision", "onnx", "onnx_ir", "onnxruntime", "cv2", "numpy", "skimage"]
print([name for name in heavy if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "[]"


def test_estimate_prints_one_json_object_and_nothing_else(calibrated: str, data: str) -> None:
    result = succeed("estimate", calibrated, "--data", data, "--json", "--threads", "1")
    record = only_object(result)
    assert list(record) == KEYS
    assert (record["accuracy"], record["frames"], record["steps"]) == (50.0, 16, 2)
    low, high = record["interval"]
    assert 0 <= low < 50 < high <= 100
    assert (record["model"], record["source"]) == ("network", data)
    assert record["flags"] == ["small_window"]


def test_the_engine_asked_for_runs_and_is_recorded(calibrated: str, data: str) -> None:
    arguments = ["estimate", calibrated, "--data", data, "--json", "--threads", "1"]
    result = succeed(*arguments, "--engine", "onnxruntime")
    assert only_object(result)["engine"] == "onnxruntime"
    assert "edgewf: engine onnxruntime: as asked for\n" in result.stderr
    result = succeed(*arguments)
    assert f"edgewf: engine {only_object(result)['engine']}: the fastest" in result.stderr


def test_an_engine_that_cannot_run_is_refused(calibrated: str, data: str) -> None:
    if next(CANDIDATES[0].lacks(), None) is None:
        pytest.skip("TensorRT can run on this machine")
    message = r"engine tensorrt cannot run here: .+; or let --engine auto choose"
    fail(message, "estimate", calibrated, "--data", data, "--engine", "tensorrt")


def test_labelled_adds_the_truth(calibrated: str, data: str) -> None:
    arguments = ["estimate", calibrated, "--data", data, "--labelled", "--json", "--threads", "1"]
    record = only_object(succeed(*arguments))
    assert list(record) == [*KEYS, "true_accuracy"]
    assert record["true_accuracy"] > 70


def test_same_seed_same_numbers(calibrated: str, data: str) -> None:
    def numbers(seed: str) -> dict[str, Any]:
        arguments = ["estimate", calibrated, "--data", data, "--labelled", "--json", "--seed", seed]
        record = only_object(succeed(*arguments, "--threads", "1"))
        del record["time"]
        return record

    assert numbers("3") == numbers("3")
    assert len({numbers(seed)["average_confidence"] for seed in "345"}) == 3


def test_estimate_for_a_person(calibrated: str, data: str) -> None:
    result = succeed("estimate", calibrated, "--data", data, "--labelled", "--threads", "1")
    assert result.stdout == ""
    for row in (
        r"accuracy +50\.0 % +\(90 %: \d+\.\d to \d+\.\d\)",
        r"true accuracy +\d+\.\d %",
        r"error +[+-]\d+\.\d points",
        r"average confidence +\d+\.\d % +\(error [+-]\d+\.\d\)",
        r"frames +16 of 60",
        r"burst +tent, 2 steps of 8 on windows of 16",
        r"flags +small_window: the window is so small",
    ):
        assert re.search(row, result.stderr), (row, result.stderr)


def test_estimate_without_a_calibration_says_what_is_missing(plain: Bundle, data: str) -> None:
    folder = str(plain.folder)
    result = succeed("estimate", folder, "--data", data, "--json", *BURST)
    record = only_object(result)
    assert list(record) == KEYS
    assert record["accuracy"] is None
    assert record["interval"] is None
    assert record["flags"] == ["no_calibration", "small_window"]
    assert f"edgewf calibrate {folder} --data DIR" in result.stderr


def test_estimate_on_a_video(calibrated: str, video: str) -> None:
    record = only_object(succeed("estimate", calibrated, "--data", video, "--json"))
    assert record["source"] == video


def test_monitor_prints_one_object_a_line(calibrated: str, data: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    result = succeed(
        "monitor", calibrated, "--source", data, "--labelled", "--json", "--output", str(log)
    )
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(records) == 3  # 60 photographs, 16 a window
    for record in records:
        assert list(record) == [*KEYS, "true_accuracy"]
        assert record["source"] == data
    assert log.read_text() == result.stdout
    assert re.search(r"finished after 3 estimates: 60 frames seen", result.stderr)


def test_monitor_stops_after_so_many_windows(calibrated: str, data: str) -> None:
    result = succeed("monitor", calibrated, "--source", data, "--json", "--max-windows", "1")
    assert only_object(result)["frames"] == 16


def test_monitor_films_the_demo(plain: Bundle) -> None:
    uri = "demo?frames=150&seed=1"
    result = succeed("monitor", str(plain.folder), "--source", uri, "--json", *BURST)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(records) > 2
    assert {record["source"] for record in records} == {uri}
    assert {record["accuracy"] for record in records} == {None}


def test_an_alert_sets_the_exit_status_and_runs_the_hook(
    calibrated: str, data: str, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['EDGEWF_STATE'])"
    hook = shlex.join([sys.executable, "-c", code, str(note)])
    arguments = ["monitor", calibrated, "--source", data, "--json", "--hook", hook]
    assert call(*arguments, "--alert-below", "49").exit_code == 0
    assert not note.exists()
    result = call(*arguments, "--alert-below", "60")
    assert result.exit_code == 1
    assert note.read_text() == "on"
    assert len(result.stdout.splitlines()) == 3


def test_an_alert_is_not_told_again_after_a_restart(
    calibrated: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWF_WEBHOOK_SECRET", "open sesame")
    arguments = ["monitor", calibrated, "--source", data, "--store", str(tmp_path / "a.db")]
    with Receiver() as receiver:
        options = ["--webhook", receiver.url, "--alert-picture", "--alert-below"]
        assert call(*arguments, *options, "60").exit_code == 1
        ((headers, body),) = receiver.requests
        expected = signature("open sesame", headers["X-Edgewf-Timestamp"], body)
        assert headers["X-Edgewf-Signature"] == expected
        message = json.loads(body)
        assert (message["rule"], message["on"], message["threshold"]) == ("below", True, 60.0)
        picture = np.frombuffer(base64.b64decode(message["picture"]), np.uint8)
        assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape == (32, 32, 3)
        assert call(*arguments, *options, "60").exit_code == 1  # it is still too low
        assert len(receiver.requests) == 1
        assert call(*arguments, *options, "65").exit_code == 1  # another rule, not told so far
        assert len(receiver.requests) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_systemd_end_a_monitor_cleanly(
    calibrated: str, tmp_path: Path, number: signal.Signals
) -> None:
    status = tmp_path / "status.json"
    # Python ignores SIGINT where its parent does, as in a background job of a shell.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [
                *[*EDGEWF, "monitor", calibrated, "--source", "demo?frames=20000", "--json"],
                *["--status", str(status)],
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    with process:
        assert process.stdout is not None
        first = process.stdout.readline()
        well = call("monitor", "--check", str(status))
        process.send_signal(number)
        rest, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for line in [first, *rest.splitlines()]:
        assert list(json.loads(line)) == KEYS
    assert "interrupted after" in errors
    assert (well.exit_code, well.output[:6]) == (0, "well: ")
    assert not status.exists()
    assert "Traceback" not in errors


def test_inspect(plain: Bundle, calibrated: str) -> None:
    record = only_object(succeed("inspect", str(plain.folder), "--json"))
    assert record["model"] == "network"
    assert record["classes"] == len(CLASSES)
    assert record["parameters"] == plain.affine.size
    assert record["preprocessing"]["image_size"] == 32
    assert record["calibration"] is None
    assert record["burst"] == BurstSettings.default(len(CLASSES)).to_json()

    record = only_object(succeed("inspect", calibrated, "--json"))
    assert record["burst"] == SETTINGS.to_json()
    assert record["calibration"] == {
        "description": "by hand",
        "points": 8,
        "estimator": {
            "name": "combined",
            "scores": list(USED),
            "formula": f"50 +0 {' +0 '.join(USED)}",
            "low": [0.0] * len(USED),
            "high": [1.0] * len(USED),
            "residual_std": pytest.approx(3.0),
        },
        "residual_std_without_steps": pytest.approx(3.0),
    }


def test_inspect_for_a_person(plain: Bundle, calibrated: str) -> None:
    result = succeed("inspect", calibrated)
    assert result.stdout == ""
    for words in (
        "network",
        "6 (astronaut, brick, chelsea",
        "160 scales",
        "by hand",
        "3.00 points",
    ):
        assert words in result.stderr
    assert "edgewf calibrate" in succeed("inspect", str(plain.folder)).stderr


def test_a_folder_whose_name_looks_like_markup(plain: Bundle, tmp_path: Path) -> None:
    odd = tmp_path / "[/old]"
    shutil.copytree(plain.folder, odd)
    assert "[/old]" in re.sub(r"\s", "", succeed("inspect", str(odd)).stderr)


def test_calibrate_then_estimate(plain: Bundle, data: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(plain.folder, bundle)
    result = succeed("calibrate", str(bundle), "--data", data, "--description", "mine", *BURST)
    assert result.stdout == ""
    assert re.search(r"calibration +mine", result.stderr)
    assert re.search(r"without steps +\d", result.stderr)
    calibration = Calibration.of(Bundle.load(bundle))
    assert calibration is not None
    assert len(calibration.points) == 42, "two windows, as 60 images allow"
    assert calibration.settings == SETTINGS

    record = only_object(succeed("estimate", str(bundle), "--data", data, "--json"))
    assert record["accuracy"] == pytest.approx(calibration.estimator()(record["scores"]), abs=0.05)
    paper = ["--estimator", "weighted-flips"]
    record = only_object(succeed("estimate", str(bundle), "--data", data, "--json", *paper))
    expected = calibration.estimator("weighted-flips")(record["scores"])
    assert (record["estimator"], record["accuracy"]) == (
        paper[1],
        pytest.approx(expected, abs=0.01),
    )
    assert "no_calibration" not in record["flags"]
    fail("steps 2 against 3", "estimate", str(bundle), "--data", data, "--steps", "3")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "deep" / "resnet20"
    succeed(*export_of(folder))
    return folder


def export_of(folder: Path) -> list[str]:
    size = ["--image-size", "32", "--resize", "32"]
    model = ["--model", "tests.cifar_resnet:resnet20", "--classes", "10", "--weights", "none"]
    return ["export", *model, *size, "--output", str(folder)]


def test_export_writes_a_bundle(exported: Path) -> None:
    bundle = Bundle.load(exported)
    assert (bundle.manifest.model, bundle.manifest.classes) == ("resnet20", 10)
    assert bundle.manifest.preprocessing.resize == 32
    assert [path.name for path in exported.parent.iterdir()] == ["resnet20"]


def test_export_replaces_nothing_unasked(exported: Path) -> None:
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    fail("already holds a bundle: name another --output or add --force", *export_of(exported))
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    fail(r"file: (File exists|Not a directory)", *export_of(tmp_path / "file" / "resnet20"))


def test_export_with_force_and_labels_replaces(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resnet20"
    shutil.copytree(exported, folder)
    (folder / CALIBRATION).write_text("of the old one")
    names = tmp_path / "names.txt"
    names.write_text("".join(f"kind {i}\n" for i in range(10)))
    arguments = [*export_of(folder), "--labels", str(names), "--force", "--mean", "0.5"]
    succeed(*arguments, "--std", "0.2,0.3,0.4")
    bundle = Bundle.load(folder)
    assert bundle.labels[9].name == "kind 9"
    assert bundle.manifest.preprocessing.mean == (0.5, 0.5, 0.5)
    assert bundle.manifest.preprocessing.std == (0.2, 0.3, 0.4)
    assert Calibration.of(bundle) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names.txt", "resnet20"]


Arguments = Callable[[str, str], list[str]]
ERRORS: dict[str, tuple[str, Arguments]] = {
    "missing bundle": (
        "/nowhere: no such bundle folder",
        lambda bundle, data: ["estimate", "/nowhere", "--data", data],
    ),
    "no bundle": (
        "is no bundle: it has no manifest.json",
        lambda bundle, data: ["inspect", data],
    ),
    "missing data": (
        "no such file or folder: /nowhere",
        lambda bundle, data: ["estimate", bundle, "--data", "/nowhere"],
    ),
    "missing calibration data": (
        "/nowhere does not exist",
        lambda bundle, data: ["calibrate", bundle, "--data", "/nowhere"],
    ),
    "unknown scheme": (
        "unknown source gopher://x",
        lambda bundle, data: ["monitor", bundle, "--source", "gopher://x"],
    ),
    "unknown option of a source": (
        "unknown option 'speed'",
        lambda bundle, data: ["monitor", bundle, "--source", "demo?speed=2"],
    ),
    "other burst than the calibration's": (
        "steps 2 against 9",
        lambda bundle, data: ["estimate", bundle, "--data", data, "--steps", "9"],
    ),
    "the mismatch comes before the data is read": (
        "steps 2 against 9",
        lambda bundle, data: ["estimate", bundle, "--data", "/nowhere", "--steps", "9"],
    ),
    "other burst in a monitor": (
        "learning_rate .* against 0.5",
        lambda bundle, data: ["monitor", bundle, "--source", data, "--learning-rate", "0.5"],
    ),
    "a window that is no multiple": (
        "window of 30 frames is no multiple of the batch size 8",
        lambda bundle, data: ["estimate", bundle, "--data", data, "--window", "30"],
    ),
    "a learning rate of nothing": (
        "learning rate > 0",
        lambda bundle, data: ["estimate", bundle, "--data", data, "--learning-rate", "nan"],
    ),
    "too few images to calibrate": (
        "9 x 16 = 144 labelled images are needed, but there are 60",
        lambda bundle, data: ["calibrate", bundle, "--data", data, "--windows", "9", *BURST],
    ),
    "a hook that nothing calls": (
        "--hook needs --alert-below",
        lambda bundle, data: ["monitor", bundle, "--source", data, "--hook", "true"],
    ),
    "model and ONNX file": (
        "--model and --onnx exclude each other",
        lambda bundle, data: ["export", "--model", "resnet18", "--onnx", "a.onnx"],
    ),
    "missing ONNX file": (
        "nowhere.onnx",
        lambda bundle, data: ["export", "--onnx", "/nowhere.onnx"],
    ),
    "missing labels": (
        "cannot read labels from /nowhere.txt",
        lambda bundle, data: ["export", "--model", "resnet18", "--labels", "/nowhere.txt"],
    ),
    "misspelt model": (
        "unknown model 'resnet81'; did you mean resnet18",
        lambda bundle, data: ["export", "--model", "resnet81"],
    ),
    "misspelt callable": (
        "expected MODULE:CALLABLE",
        lambda bundle, data: ["export", "--model", "tests.cifar_resnet:resnet21"],
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_line(calibrated: str, data: str, name: str) -> None:
    message, arguments = ERRORS[name]
    fail(message, *arguments(calibrated, data))


def test_too_few_frames_are_told(calibrated: str, data: str, tmp_path: Path) -> None:
    shutil.copytree(Path(data) / "brick", tmp_path / "few")
    few = str(tmp_path / "few")
    fail("has 10 frames, an estimate takes 16", "estimate", calibrated, "--data", few)
    result = call("monitor", calibrated, "--source", few, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"edgewf: {few} ended before a window was full" in result.stderr.splitlines()[-1]


def test_folders_that_name_no_class_are_listed(calibrated: str, data: str, tmp_path: Path) -> None:
    shutil.copytree(Path(data) / "brick", tmp_path / "bricks")
    shutil.copytree(Path(data) / "brick", tmp_path / "walls")
    arguments = [calibrated, "--data", str(tmp_path)]
    fail("no class for the folders bricks, walls", "calibrate", *arguments, *BURST)
    fail("no class for the folders bricks, walls", "estimate", *arguments, "--labelled")


def test_a_video_has_no_true_labels(calibrated: str, video: str) -> None:
    fail("has no true labels", "estimate", calibrated, "--data", video, "--labelled")


def test_a_damaged_calibration_is_named(calibrated: str, data: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(calibrated, bundle)
    path = bundle / CALIBRATION
    path.write_text(path.read_text().replace('"certainty": 0.0', '"certainty": 0.25'))
    for command in (["estimate", "--data", data], ["monitor", "--source", data], ["inspect"]):
        fail(f"{re.escape(str(path))}: damaged calibration", command[0], str(bundle), *command[1:])


def test_an_alert_needs_a_calibration(plain: Bundle, data: str) -> None:
    arguments = ["monitor", str(plain.folder), "--source", data, "--alert-below", "50"]
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--alert-below needs an accuracy" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["estimate"],
        ["estimate", "BUNDLE"],
        ["monitor", "BUNDLE"],
        ["calibrate", "BUNDLE", "--data", "x", "--steps", "-1"],
        ["estimate", "BUNDLE", "--data", "x", "--objective", "sgd"],
        ["monitor", "BUNDLE", "--source", "x", "--alert-below", "101"],
        ["monitor", "BUNDLE", "--source", "x", "--stride", "0"],
        ["monitor", "BUNDLE", "--source", "x", "--duty-cycle", "0"],
        ["monitor", "BUNDLE", "--source", "x", "--every", "-1"],
        ["export", "--mean", "1,2"],
        ["export", "--std", "a"],
        ["export", "--classes", "1"],
        ["watch"],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_two(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: edgewf" in result.stderr


def test_a_real_process_fails_without_a_traceback() -> None:
    found = subprocess.run(
        [*EDGEWF, "inspect", "/nowhere"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith("edgewf: /nowhere: no such bundle folder")
    assert found.stderr.count("\n") == 1
