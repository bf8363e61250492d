"""Calibration runs on a real classifier: complete, interrupted in many ways, and resumed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgewf.bundle import Bundle
from edgewf.burst import run_burst
from edgewf.calibrate import (
    PARTIAL,
    Windows,
    calibrate,
    draw_windows,
    load_window,
    measure,
)
from edgewf.calibration import Calibration, Point
from edgewf.cli import main
from edgewf.dropout import DropoutInference
from edgewf.engines import Images
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.estimators.table import References
from edgewf.estimators.temperature import fit_temperature
from edgewf.images import labelled_images
from edgewf.settings import BurstSettings
from edgewf.shifts import calibration_shifts, shift
from tests.tiny import EDGEWF, export_tiny, tiny_settings, write_class_folders

SETTINGS = tiny_settings(window=16, batch_size=8, steps=2, seed=4)
SHIFTS = calibration_shifts()
POINTS = 2 * len(SHIFTS)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("calibrate"))


@pytest.fixture
def bundle(exported: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(exported.folder, tmp_path / "bundle")
    return Bundle.load(tmp_path / "bundle")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("photographs"), count=8, seed=2)


@pytest.fixture(scope="module")
def windows(exported: Bundle, data: Path) -> Windows:
    return draw_windows(labelled_images(data, exported.labels), SETTINGS, 2)


@pytest.fixture(scope="module")
def whole(exported: Bundle, windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The calibration that no one interrupted, as text."""
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    shutil.copytree(exported.folder, folder)
    return run(Bundle.load(folder), windows).to_text()


class Counted(OnnxRuntimeCPU):
    """Counts bursts from their first record on, and may fail in the middle of one."""

    def __init__(self, bundle: Bundle, fails_in: int | None = None) -> None:
        super().__init__(bundle, threads=1)
        self.bursts = 0
        self._begun = False
        self._fails_in = fails_in

    def reset(self, settings: BurstSettings) -> None:
        self._begun = False
        super().reset(settings)

    def record(self, images: Images) -> None:
        self.bursts += not self._begun
        self._begun = True
        super().record(images)

    def probe(self, images: Images) -> None:
        if self.bursts == self._fails_in:
            raise RuntimeError("the accelerator fell off the bus")
        super().probe(images)


def run(
    bundle: Bundle,
    windows: Windows,
    settings: BurstSettings = SETTINGS,
    engine: Counted | None = None,
    on_point: Callable[[int, int, Point | None], None] | None = None,
) -> Calibration:
    return calibrate(
        bundle,
        engine or Counted(bundle),
        windows,
        settings,
        description="crops of photographs",
        on_point=on_point,
    )


def stop_after(points: int, error: BaseException) -> Callable[[int, int, Point | None], None]:
    def on_point(done: int, total: int, point: Point | None) -> None:
        if done == points:
            raise error

    return on_point


def interrupt(bundle: Bundle, windows: Windows, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(bundle, windows, on_point=stop_after(after, KeyboardInterrupt()))


def lines(bundle: Bundle) -> list[str]:
    return bundle.path(PARTIAL).read_text().splitlines()


def test_a_whole_run(bundle: Bundle, windows: Windows, whole: str) -> None:
    told: list[tuple[int, int, Point | None]] = []
    engine = Counted(bundle)
    result = run(bundle, windows, engine=engine, on_point=lambda *args: told.append(args))
    assert engine.bursts == POINTS
    assert result.to_text() == whole
    assert [p.key for p in result.points] == [(*s, w) for w in range(2) for s in SHIFTS]
    clean = [p for p in result.points if p.severity == 0]
    others = [p for p in result.points if p.severity > 0]
    assert told == [(i, POINTS, p) for i, p in enumerate([None, *clean, *others])]
    assert not bundle.path(PARTIAL).exists()
    stored = Calibration.of(Bundle.load(bundle.folder))
    assert stored is not None
    assert stored.to_text() == whole
    assert stored.settings == SETTINGS
    assert stored.description == "crops of photographs"


def test_points_tell_what_a_burst_on_the_shifted_window_found(
    bundle: Bundle, windows: Windows, whole: str
) -> None:
    kept = Calibration.from_text(whole, "whole")
    points = {p.key: p for p in kept.points}
    engine, dropout = Counted(bundle), DropoutInference.of(bundle)
    assert dropout is not None
    for w in range(2):
        images, labels = load_window(bundle, windows[w])
        clean = 100 * (engine.infer(images).argmax(axis=1) == labels).mean()
        assert points["clean", 0, w].accuracy == pytest.approx(clean)
        for name, severity in (("speckle_noise", 5), ("gaussian_blur", 2)):
            shifted = shift(name, images, severity, SETTINGS.seed + w)
            record = run_burst(engine, shifted, SETTINGS, dropout=dropout).record
            expected = measure((name, severity), w, record, labels, kept.references)
            assert points[name, severity, w] == expected
            flips = 1000 * (record.deployed.label != record.after.label).mean()
            assert expected.scores["flips"] == pytest.approx(flips)
    # What calibration lives on: worse pictures, fewer right, more flips.
    worst, clean_point = points["speckle_noise", 5, 0], points["clean", 0, 0]
    assert worst.accuracy < clean_point.accuracy
    assert worst.scores["weighted_flips"] > clean_point.scores["weighted_flips"]


def test_scores_know_all_clean_windows(bundle: Bundle, windows: Windows, whole: str) -> None:
    kept = Calibration.from_text(whole, "whole").references
    loaded = [load_window(bundle, window) for window in windows]
    engine = Counted(bundle)
    seen = [(run_burst(engine, images, SETTINGS).record, labels) for images, labels in loaded]
    labels = np.concatenate([labels for _, labels in loaded])
    logits = engine.infer(np.concatenate([images for images, _ in loaded]))
    accuracy = (logits.argmax(axis=1) == labels).mean()
    assert kept == References.of(seen)
    assert kept.temperature == pytest.approx(fit_temperature(logits, labels), rel=1e-4)
    assert kept.scores["difference_of_confidences"]["accuracy"] == pytest.approx(accuracy)
    assert kept.scores["cot"]["labels"] == sorted(labels)


@pytest.mark.parametrize("after", [2, 3, 5, len(SHIFTS), POINTS - 1])
def test_goes_on_where_ctrl_c_stopped_it(
    bundle: Bundle, windows: Windows, whole: str, after: int
) -> None:
    interrupt(bundle, windows, after)
    assert len(lines(bundle)) == 2 + after
    assert Calibration.of(Bundle.load(bundle.folder)) is None
    engine, told = Counted(bundle), []
    result = run(bundle, windows, engine=engine, on_point=lambda done, *_: told.append(done))
    assert engine.bursts == POINTS - after
    assert told == list(range(after, POINTS + 1))
    assert result.to_text() == whole
    assert not bundle.path(PARTIAL).exists()


def test_clean_windows_are_looked_at_together(bundle: Bundle, windows: Windows, whole: str) -> None:
    """What scores know is of both, so a run that ended between them starts anew."""
    for after in (0, 1):
        interrupt(bundle, windows, after)
        engine = Counted(bundle)
        interrupt(bundle, windows, 2)
        assert run(bundle, windows, engine=engine).to_text() == whole
        assert engine.bursts == POINTS - 2


def test_goes_on_after_several_failures_inside_bursts(
    bundle: Bundle, windows: Windows, whole: str
) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match="fell off"):
            run(bundle, windows, engine=Counted(bundle, fails_in=5))
    assert len(lines(bundle)) == 2 + 3 * 4
    engine = Counted(bundle)
    assert run(bundle, windows, engine=engine).to_text() == whole
    assert engine.bursts == POINTS - 12


@pytest.mark.parametrize("tail", ["", '{"shift": "spat', "null\n", "{}\n", "\x00\x00\x00"])
def test_a_torn_last_line_costs_one_point(
    bundle: Bundle, windows: Windows, whole: str, tail: str
) -> None:
    interrupt(bundle, windows, 6)
    path = bundle.path(PARTIAL)
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept[:-1]) + (tail or kept[-1][:-20]))
    engine = Counted(bundle)
    with pytest.raises(KeyboardInterrupt):
        run(bundle, windows, engine=engine, on_point=stop_after(8, KeyboardInterrupt()))
    assert engine.bursts == 3
    for line in lines(bundle):
        json.loads(line)
    assert run(bundle, windows).to_text() == whole


@pytest.mark.parametrize("content", [b"", b"\xff\xfe garbage", b"[]\n", b"\n\n\n"])
def test_a_ruined_file_of_finished_points_starts_anew(
    bundle: Bundle, windows: Windows, whole: str, content: bytes
) -> None:
    bundle.path(PARTIAL).write_bytes(content)
    engine = Counted(bundle)
    assert run(bundle, windows, engine=engine).to_text() == whole
    assert engine.bursts == POINTS


@pytest.mark.parametrize("change", [{"steps": 3}, {"learning_rate": 0.3}, {"seed": 5}])
def test_points_of_another_burst_are_not_reused(
    bundle: Bundle, windows: Windows, change: dict[str, float]
) -> None:
    interrupt(bundle, windows, 6)
    engine = Counted(bundle)
    settings = SETTINGS.with_changes(**change)
    assert run(bundle, windows, settings, engine).settings == settings
    assert engine.bursts == POINTS


def test_points_of_other_images_are_not_reused(bundle: Bundle, windows: Windows) -> None:
    interrupt(bundle, windows, 6)
    engine = Counted(bundle)
    run(bundle, [windows[1], windows[0]], engine=engine)
    assert engine.bursts == POINTS


def test_finished_points_are_kept_while_the_file_is_rewritten(
    bundle: Bundle, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(bundle, windows, 6)
    before = lines(bundle)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            run(bundle, windows)
    assert lines(bundle)[:8] == before
    engine = Counted(bundle)
    run(bundle, windows, engine=engine)
    assert engine.bursts == POINTS - 6


def test_an_old_calibration_stays_until_the_new_one_is_ready(
    bundle: Bundle, windows: Windows
) -> None:
    old = run(bundle, windows)
    with pytest.raises(KeyboardInterrupt):
        run(
            bundle,
            windows,
            SETTINGS.with_changes(steps=1),
            on_point=stop_after(3, KeyboardInterrupt()),
        )
    kept = Calibration.of(Bundle.load(bundle.folder))
    assert kept is not None
    assert kept.to_text() == old.to_text()


def test_an_unreadable_image_is_named_and_costs_no_finished_point(
    bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    images = draw_windows(labelled_images(copy, bundle.labels), SETTINGS, 2)
    interrupt(bundle, images, 6)
    bad = images[1][3][0]
    good = bad.read_bytes()
    bad.write_bytes(bytes(len(good)))  # of the same size: no other set of images
    with pytest.raises(EdgewfError, match="damaged or not an image") as error:
        run(bundle, images)
    assert str(bad) in str(error.value)
    assert len(lines(bundle)) == 2 + len(SHIFTS) + 1  # the other window, and this one clean
    bad.write_bytes(good)
    engine = Counted(bundle)
    run(bundle, images, engine=engine)
    assert engine.bursts == len(SHIFTS) - 1


def test_windows_are_disjoint_mixed_and_fixed_by_the_seed(bundle: Bundle, data: Path) -> None:
    images = labelled_images(data, bundle.labels)
    first, second = draw_windows(images, SETTINGS, 2)
    assert len(first) == len(second) == SETTINGS.window
    assert len({path for path, _ in [*first, *second]}) == 2 * SETTINGS.window
    assert set(first) <= set(images)
    assert len({label for _, label in first}) > 3, "not one class after the other"
    assert draw_windows(images, SETTINGS, 2) == [first, second]
    assert draw_windows(images, SETTINGS.with_changes(seed=5), 2) != [first, second]


def test_too_few_images_are_refused(bundle: Bundle, data: Path) -> None:
    images = labelled_images(data, bundle.labels)
    with pytest.raises(EdgewfError, match=r"4 x 16 = 64 labelled images are needed, .* 48: add"):
        draw_windows(images, SETTINGS, 4)


def test_ctrl_c_on_the_command_line(bundle: Bundle, data: Path) -> None:
    options = [str(bundle.folder), "--data", str(data), "--windows", "1", "--threads", "1"]
    options += ["--window", "32", "--batch-size", "16", "--steps", "60"]
    # Python ignores SIGINT where its parent does, as in a background job of a shell.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*EDGEWF, "calibrate", *options],
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    with process:
        deadline = time.monotonic() + 300
        while not bundle.path(PARTIAL).exists() or len(lines(bundle)) < 4:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "edgewf: interrupted: finished points are kept" in errors
    assert "Traceback" not in errors

    assert Calibration.of(Bundle.load(bundle.folder)) is None
    finished = len(lines(bundle)) - 2
    assert 2 <= finished < len(SHIFTS)
    resumed = CliRunner().invoke(main, ["calibrate", *options])
    assert resumed.exit_code == 0, resumed.output
    assert f"going on from {finished} finished points" in resumed.stderr
    found = Calibration.of(Bundle.load(bundle.folder))
    assert found is not None
    assert len(found.points) == len(SHIFTS)
    assert found.description == str(data)
