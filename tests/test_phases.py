"""Centroids of clean embeddings, trajectories of long bursts, and `edgewf analyze`."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.console import Console

from edgewf.bundle import CENTROIDS, Bundle
from edgewf.calibrate import calibrate, draw_windows
from edgewf.cli import main
from edgewf.engines import Engine, Features, Images
from edgewf.engines.gpu import Gpu
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.engines.openvino_cpu import OpenVINOCPU
from edgewf.errors import EdgewfError
from edgewf.estimation import Estimator
from edgewf.flags import effective_classes
from edgewf.images import labelled_images
from edgewf.phases import centroids as centroids_file
from edgewf.phases.centroids import Centroids
from edgewf.phases.trajectory import Trajectory, follow, looked_at, turning_point
from edgewf.report import estimate_report
from tests import gpu_on_host
from tests.gpu_on_host import OnHost
from tests.tiny import crops, export_tiny, tiny_settings, write_class_folders

SETTINGS = tiny_settings(window=120, batch_size=60)
RNG = np.random.default_rng(3)
CLEAN = RNG.normal(size=(40, 7)).astype(np.float32)
LABELS = np.arange(40) % 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("phases"))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OnnxRuntimeCPU:
    return OnnxRuntimeCPU(bundle, threads=1)


@pytest.fixture(scope="module")
def window() -> Images:
    return np.random.default_rng(0).permutation(crops(20, seed=5)[0])


@pytest.fixture(scope="module")
def noise() -> Images:
    return np.random.default_rng(0).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("photographs"), 20, seed=5)


@pytest.fixture(scope="module")
def calibrated(
    bundle: Bundle, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Centroids]:
    """A calibrated bundle, and the centroids that were written into it."""
    folder = tmp_path_factory.mktemp("calibrated") / "bundle"
    shutil.copytree(bundle.folder, folder)
    copy = Bundle.load(folder)
    images = labelled_images(data, bundle.labels)
    windows = draw_windows(images, tiny_settings(window=60, batch_size=20), 2)
    settings = tiny_settings(window=60, batch_size=20)
    calibrate(copy, OnnxRuntimeCPU(copy, 1), windows, settings, description="crops")
    found = Centroids.of(copy)
    assert found is not None
    return copy, found


def taken(bundle: Bundle, embedding: np.ndarray = CLEAN, labels: np.ndarray = LABELS) -> Centroids:
    return Centroids.of_embeddings(bundle.manifest, embedding, labels)


def spread_by_hand(x: np.ndarray, labels: np.ndarray) -> float:
    """Leave each frame out, and look for the nearest class mean."""
    nearest = []
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        means = [x[others & (labels == k)].mean(axis=0) for k in np.unique(labels[others])]
        nearest.append(min(np.linalg.norm(x[i] - m) for m in means))
    return float(np.mean(nearest))


# Centroids


def test_distances_are_numpys(bundle: Bundle) -> None:
    found = taken(bundle)
    means = np.stack([CLEAN[k == LABELS].mean(axis=0) for k in range(4)])
    np.testing.assert_allclose(found.points, means, atol=1e-3)
    x = RNG.normal(2, size=(15, 7)).astype(np.float32)
    nearest = [min(np.linalg.norm(row - mean) for mean in means) for row in x]
    assert found.spread == pytest.approx(spread_by_hand(CLEAN, LABELS))
    assert found.distance(x) == pytest.approx(np.mean(nearest) / found.spread, rel=1e-3)


def test_a_class_of_one_frame_is_no_reference_for_it(bundle: Bundle) -> None:
    labels = np.array([0, 0, 0, 1, 2])
    found = taken(bundle, CLEAN[:5], labels)
    assert found.spread == pytest.approx(spread_by_hand(CLEAN[:5], labels))
    every = np.arange(5)  # as where there is one image a class
    assert taken(bundle, CLEAN[:5], every).spread == pytest.approx(spread_by_hand(CLEAN[:5], every))


@given(
    arrays(np.float32, (9, 3), elements=st.floats(-100, 100, width=32), unique=True),
    arrays(np.int64, 9, elements=st.integers(0, 3)),
    st.floats(1e-6, 1e6),
)
def test_distance_has_no_unit(
    bundle: Bundle, x: np.ndarray, labels: np.ndarray, scale: float
) -> None:
    one = taken(bundle, x, labels)
    other = taken(bundle, (x * scale).astype(np.float32), labels)
    seen = x[::2] + 1
    # Means are kept to a thousandth of the largest feature.
    tolerance = 2e-3 * float(np.abs(x).max()) * 2 / one.spread
    assert other.distance((seen * scale).astype(np.float32)) == pytest.approx(
        one.distance(seen), rel=1e-3, abs=tolerance
    )


def test_centroids_come_back_from_the_bundle(calibrated: tuple[Bundle, Centroids]) -> None:
    bundle, _ = calibrated
    large = replace(taken(bundle), points=1e9 * np.ones((2, 5), np.float32))
    copy = replace(large, classes=np.array([3, 5]))
    before = bundle.path(CENTROIDS).read_bytes()
    try:
        copy.write(bundle)
        found = Centroids.of(Bundle.load(bundle.folder))
        assert found is not None
        np.testing.assert_allclose(found.points, copy.points, rtol=1e-3)  # beyond float16
        np.testing.assert_array_equal(found.classes, [3, 5])
        assert (found.spread, found.frames) == (copy.spread, 40)
    finally:
        bundle.path(CENTROIDS).write_bytes(before)


def test_the_file_has_a_bound_and_frequent_classes_stay(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centroids_file, "MOST_BYTES", 2 * 2 * 7)
    labels = np.array([0] * 9 + [1] * 12 + [2] * 5 + [3] * 14)
    found = taken(bundle, CLEAN, labels)
    np.testing.assert_array_equal(found.classes, [1, 3])
    np.testing.assert_allclose(found.points[0], CLEAN[9:21].mean(axis=0), atol=1e-3)
    # The unit of distances knows the kept ones only, as distances do.
    near = []
    for x, label in zip(CLEAN.astype(float), labels, strict=True):
        means = {k: CLEAN[labels == k].mean(axis=0) for k in (1, 3)}
        if label in means:
            n = (labels == label).sum()
            means[label] = (n * means[label] - x) / (n - 1)
        near.append(min(np.linalg.norm(x - mean) for mean in means.values()))
    assert found.spread == pytest.approx(np.mean(near))


def test_calibration_takes_the_means_of_its_clean_windows(
    calibrated: tuple[Bundle, Centroids], data: Path
) -> None:
    bundle, found = calibrated
    np.testing.assert_array_equal(found.classes, np.arange(6))
    assert (found.points.shape, found.frames) == ((6, 32), 120)
    engine = OnnxRuntimeCPU(bundle, threads=1)
    engine.reset(tiny_settings())
    clean = crops(30, seed=9)[0]
    seen = engine.features(np.random.default_rng(0).permutation(clean)).embedding
    assert found.distance(seen) == pytest.approx(1, abs=0.25)
    assert np.abs(seen).max() > 0.1


def test_a_file_with_any_byte_changed_is_named_or_read(
    calibrated: tuple[Bundle, Centroids],
) -> None:
    bundle, intact = calibrated
    path = bundle.path(CENTROIDS)
    before = path.read_bytes()
    refused = 0
    try:
        for index in range(len(before)):
            path.write_bytes(before[:index] + bytes([before[index] ^ 255]) + before[index + 1 :])
            try:
                found = Centroids.of(bundle)
            except EdgewfError:
                refused += 1
            else:  # of the archive's own notes, such as the time of writing
                assert found is not None
                np.testing.assert_array_equal(found.points, intact.points)
        assert refused > len(before) / 2
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("cut", [0, 10, -10])
def test_a_damaged_file_is_named(calibrated: tuple[Bundle, Centroids], cut: int) -> None:
    path = calibrated[0].path(CENTROIDS)
    before = path.read_bytes()
    try:
        path.write_bytes(before[:cut])
        with pytest.raises(EdgewfError, match=r"centroids.npz: damaged .*delete it and run"):
            Centroids.of(calibrated[0])
    finally:
        path.write_bytes(before)


def test_centroids_of_another_model_are_refused(calibrated: tuple[Bundle, Centroids]) -> None:
    bundle, _ = calibrated
    other = replace(bundle, manifest=replace(bundle.manifest, fingerprint="0" * 64))
    with pytest.raises(EdgewfError, match="not for this bundle's: delete it"):
        Centroids.of(other)


def test_what_fixes_no_centroid_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EdgewfError, match="not finite on clean images"):
        taken(bundle, np.full((4, 2), np.nan, np.float32), np.arange(4))
    with pytest.raises(EdgewfError, match="same embedding for all 4 clean images"):
        taken(bundle, np.ones((4, 2), np.float32), np.arange(4))
    with pytest.raises(EdgewfError, match="7 features a class, the model returns 5"):
        taken(bundle).distance(np.ones((4, 5), np.float32))


# Engines


def test_embeddings_are_those_that_the_classifier_sees(
    engine: OnnxRuntimeCPU, window: Images, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are linear in them, on every engine, before and after steps that they do not touch."""
    gpu_on_host.use(monkeypatch)
    others: list[Engine] = [OpenVINOCPU(bundle, 1), OnHost(bundle, Gpu())]
    settings = SETTINGS.with_changes(steps=4, learning_rate=0.1)
    seen: list[list[Features]] = []
    for each in (engine, *others):
        each.reset(settings)
        seen.append([])
        for _ in range(2):
            seen[-1].append(each.features(window[:60]))
            each.step(window[:60])
            each.step(window[60:])
    for mine in seen:
        for features, expected in zip(mine, seen[0], strict=True):
            assert features.embedding.dtype == np.float32
            np.testing.assert_allclose(features.embedding, expected.embedding, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(features.logits, expected.logits, rtol=1e-3, atol=1e-3)
            ones = np.ones((60, 1), np.float32)
            x = np.concatenate([features.embedding, ones], axis=1)
            fit, *_ = np.linalg.lstsq(x, features.logits, rcond=None)
            np.testing.assert_allclose(x @ fit, features.logits, atol=1e-3)
    assert np.abs(seen[0][1].embedding - seen[0][0].embedding).max() > 0.01


def test_a_look_changes_nothing(engine: OnnxRuntimeCPU, window: Images) -> None:
    changes = []
    for looks in (0, 1):
        engine.reset(SETTINGS)
        for _ in range(3):
            engine.step(window[:60])
            for _ in range(looks):
                engine.features(window[60:])
        changes.append(engine.read().affine_change)
    assert changes[0] == changes[1] > 0


# Trajectories


@given(st.integers(0, 5000))
def test_looks_are_few_and_include_both_ends(steps: int) -> None:
    marks = looked_at(steps)
    assert marks[0] == 0
    assert marks[-1] == steps
    assert marks == sorted(set(marks))
    assert len(marks) <= 60


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=30))
def test_the_turn_is_the_lowest_distance_if_it_rises_again(distances: list[float]) -> None:
    turn = turning_point(distances)
    if turn is None:
        assert max(distances[distances.index(min(distances)) :]) <= min(distances) + 0.005
    else:
        assert distances[turn] == min(distances)
        assert max(distances[turn:]) > distances[turn]
        assert turning_point([*distances, 0.05]) is None
    assert turning_point([*distances, 9.0]) is not None


def test_turning_points_by_hand() -> None:
    assert turning_point([1.2, 1.1, 1.0, 1.1, 1.3]) == 2
    assert turning_point([1.0, 1.1]) == 0
    assert turning_point([1.2, 1.1, 1.0, 1.004]) is None


def test_a_trajectory_against_numpy(
    engine: OnnxRuntimeCPU, window: Images, calibrated: tuple[Bundle, Centroids]
) -> None:
    _, centroids = calibrated
    labels = np.arange(120) % 6  # any: only counted
    settings = SETTINGS.with_changes(batch_size=120, steps=3, learning_rate=0.1)
    found = follow(engine, window, settings, centroids, labels)
    assert [look.step for look in found.looks] == [0, 1, 2, 3]
    deployed = engine.infer(window).argmax(axis=1)
    assert found.deployed_accuracy == pytest.approx(100 * (deployed == labels).mean())
    engine.reset(settings)
    for look in found.looks:
        seen = engine.features(window)
        p = np.exp(seen.logits.astype(np.float64))
        p /= p.sum(axis=1, keepdims=True)
        predicted = p.argmax(axis=1)
        assert look.entropy == pytest.approx(-(p * np.log(p)).sum(axis=1).mean(), rel=1e-3)
        assert look.accuracy == pytest.approx(100 * (predicted == labels).mean())
        assert look.flips == pytest.approx(1000 * (predicted != deployed).mean())
        assert look.classes == pytest.approx(effective_classes(predicted))
        assert look.distance == pytest.approx(centroids.distance(seen.embedding), rel=1e-3)
        engine.step(window)


def collapsing(engine: OnnxRuntimeCPU, noise: Images) -> Trajectory:
    settings = SETTINGS.with_changes(steps=60, learning_rate=0.3)
    return follow(engine, noise, settings, None)


def test_a_provoked_collapse_is_seen_and_stops_an_estimate(
    bundle: Bundle, engine: OnnxRuntimeCPU, noise: Images, window: Images
) -> None:
    found = collapsing(engine, noise)
    assert found.collapse is not None
    first = found.looks[0].classes
    by_step = {look.step: look.classes for look in found.looks}
    assert by_step[found.collapse] < first / 2
    assert all(c >= first / 2 for step, c in by_step.items() if step < found.collapse)

    settings = SETTINGS.with_changes(steps=60, learning_rate=0.3)
    estimator = Estimator(bundle, engine, None, settings)
    result = estimator(noise, source="noise", time=0.0)
    assert "collapse" in result.flags
    assert result.steps < 60
    assert result.steps % 10 == 0
    assert result.steps >= found.collapse
    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(estimate_report(result, settings, available=120))
    assert f"; stopped after {result.steps}" in shown.export_text()
    fine = estimator(window, source="photographs", time=0.0)
    assert "collapse" not in fine.flags
    assert fine.steps == 60


def test_bursts_of_the_default_settings_are_never_watched(
    bundle: Bundle, engine: OnnxRuntimeCPU, noise: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "features", None)
    for learning_rate in (0.005, 0.3):
        settings = SETTINGS.with_changes(
            steps=bundle.manifest.burst.steps, learning_rate=learning_rate
        )
        result = Estimator(bundle, engine, None, settings)(noise, source="noise", time=0.0)
        assert result.steps == bundle.manifest.burst.steps


def test_numbers_that_are_not_finite_are_refused(engine: OnnxRuntimeCPU, window: Images) -> None:
    settings = SETTINGS.with_changes(steps=40, learning_rate=1e38)
    with pytest.raises(EdgewfError, match=r"not finite after \d+ steps: use a smaller"):
        follow(engine, window, settings, None)
    with pytest.raises(EdgewfError, match="window of 119 frames, but the burst is set to 120"):
        follow(engine, window[1:], settings, None)


# The command


def analyze(bundle: Bundle, data: Path, *options: str) -> Result:
    burst = ("--window", "60", "--batch-size", "20", "--learning-rate", "0.1", "--threads", "1")
    arguments = ["analyze", str(bundle.folder), "--data", str(data), *burst, *options]
    return CliRunner().invoke(main, arguments)


def test_analyze_with_labels(
    calibrated: tuple[Bundle, Centroids], data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "made" / "here"
    done = analyze(
        calibrated[0], data, "--labelled", "--steps", "12", "--json", "--output", str(output)
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((output / "phases.json").read_text())
    assert [look["step"] for look in found["looks"]] == list(range(13))
    assert found["settings"]["learning_rate"] == 0.1
    assert found["deployed_accuracy"] > 80
    assert {"distance", "classes", "entropy", "flips", "weighted_flips", "accuracy"} < set(
        found["looks"][0]
    )
    assert found["looks"][0]["distance"] == pytest.approx(1, abs=0.3)
    assert {"turn", "collapse", "model", "source", "engine"} < set(found)
    assert (output / "phases.png").read_bytes().startswith(b"\x89PNG")


def test_analyze_without_labels_draws_svg_and_shows_a_table(
    calibrated: tuple[Bundle, Centroids], tmp_path: Path
) -> None:
    write_class_folders(tmp_path / "frames", 10, seed=6)
    options = ("--steps", "3", "--output", str(tmp_path), "--format", "svg")
    done = analyze(calibrated[0], tmp_path / "frames", *options)
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert "distance" in done.stderr
    assert "accuracy" not in done.stderr
    assert "phase" in done.stderr
    assert json.loads((tmp_path / "phases.json").read_text())["deployed_accuracy"] is None
    assert "<svg" in (tmp_path / "phases.svg").read_text()


def test_no_steps_are_no_default_and_names_are_no_markup(
    calibrated: tuple[Bundle, Centroids], tmp_path: Path
) -> None:
    odd = tmp_path / "a$1_$2[/b]"
    write_class_folders(odd, 10, seed=6)
    done = analyze(calibrated[0], odd, "--steps", "0", "--output", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "phases.json").read_text())
    assert [look["step"] for look in found["looks"]] == [0]


def test_a_bundle_without_centroids_still_shows_the_rest(bundle: Bundle, data: Path) -> None:
    done = analyze(bundle, data, "--steps", "2", "--json")
    assert done.exit_code == 0, done.output
    assert "has no centroids of clean images" in done.stderr
    assert "edgewf calibrate" in done.stderr
    found = json.loads(done.stdout)
    assert found["turn"] is None
    assert [look["distance"] for look in found["looks"]] == [None] * 3
    assert found["looks"][0]["entropy"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window", "900"), "has 120 frames"),
        (("--window", "50"), "no multiple of the batch size"),
        (("--labelled",), "no class for the folders other"),
    ],
)
def test_bad_input_is_named(
    calibrated: tuple[Bundle, Centroids],
    data: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    if options == ("--labelled",):
        data = tmp_path
        (tmp_path / "other").mkdir()
    done = analyze(calibrated[0], data, *options)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_missing_folder_and_a_damaged_centroid_file(
    calibrated: tuple[Bundle, Centroids], data: Path, tmp_path: Path
) -> None:
    done = analyze(calibrated[0], tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    folder = tmp_path / "bundle"
    shutil.copytree(calibrated[0].folder, folder)
    (folder / CENTROIDS).write_bytes(b"no archive")
    done = analyze(Bundle.load(folder), data)
    assert done.exit_code == 2
    assert "centroids.npz: damaged" in done.stderr
