"""The runner for the paper's data sets, on miniature trees in their layouts."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from benchmarks.paper import __main__ as command
from benchmarks.paper import published, samples
from benchmarks.paper.published import PAPER_MAE, paper_settings, published_f
from benchmarks.paper.run import Protocol, run_cell
from benchmarks.paper.splits import CORRUPTIONS, EXTRA_CORRUPTIONS, FITTED, SPLITS, chosen_splits
from benchmarks.paper.table import means, rows
from edgewf.bundle import Bundle
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.imagenet import imagenet_labels
from edgewf.export.sources.registry import load_source
from edgewf.labels import Label
from tests.tiny import SIDE, _trained, constant_calibration, crops, tiny_settings

LABELS = imagenet_labels()[:6]
WNIDS = [str(label.id) for label in LABELS]
SMALL = ("--steps", "2", "--batch-size", "4", "--probes", "12", "--probe-batch", "6")
QUICK = (*SMALL, "--severities", "1,3", "--engine", "onnxruntime", "--threads", "1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny network, with its classes called as ImageNet's first."""
    folder = tmp_path_factory.mktemp("paper")
    torch.save(_trained(), folder / "weights.pth")
    source = load_source(
        "tests.tiny:network",
        weights=str(folder / "weights.pth"),
        image_size=SIDE,
        resize=SIDE,
        classes=6,
    )
    made = export_bundle(source, folder / "tiny", labels=LABELS)
    constant_calibration(made, tiny_settings(window=8, batch_size=4)).write(made.folder)
    return made


def png(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert ok
    return data.tobytes()


@pytest.fixture(scope="module")
def pictures() -> list[tuple[int, bytes]]:
    images, labels = crops(2, seed=4)
    return [(int(k), png(x)) for x, k in zip(images, labels, strict=True)]


def folders(root: Path, names: list[str], pictures: list[tuple[int, bytes]]) -> Path:
    for i, (k, data) in enumerate(pictures):
        path = root / names[k] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def stream(folder: Path, pictures: list[tuple[int, bytes]]) -> Path:
    folder.mkdir(parents=True)
    for s in range(2):
        with tarfile.open(folder / f"serial_{s:05}.tar", "w") as file:
            for i, (k, data) in enumerate(pictures[s::2]):
                for kind, content in (("input.jpg", data), ("output.cls", str(k).encode())):
                    info = tarfile.TarInfo(f"{s}{i:04}.{kind}")
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
    return folder


def objectnet_tree(root: Path, pictures: list[tuple[int, bytes]]) -> Path:
    """Three folders of ImageNet classes, one of them of two, and one that ImageNet lacks."""
    mappings = root / "mappings"
    mappings.mkdir(parents=True)
    write_json(
        mappings / "folder_to_objectnet_label.json",
        {"fish": "Fish", "shark": "Shark", "rays": "Ray", "jar": "Jar"},
    )
    write_json(
        mappings / "objectnet_to_imagenet_1k.json",
        {"Fish": "tench; goldfish, Carassius auratus", "Shark": "white shark", "Ray": "ray"},
    )
    # Lines of the names are in another order than outputs.
    (mappings / "imagenet_to_label_2012_v2").write_text(
        "ray\nwhite shark\ngoldfish, Carassius auratus\ntench\n"
    )
    write_json(mappings / "pytorch_to_imagenet_2012_id.json", {"0": 3, "1": 2, "2": 1, "5": 0})
    bordered = []
    for k, data in pictures:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        red = cv2.copyMakeBorder(image, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(0, 0, 255))
        bordered.append((k, cv2.imencode(".png", red)[1].tobytes()))
    folders(root / "images", ["fish", "fish", "shark", "jar", "jar", "rays"], bordered)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, pictures: list[tuple[int, bytes]]) -> Path:
    """Every data set, 12 images a cell (ObjectNet 8 of them)."""
    root = tmp_path_factory.mktemp("data")
    for name in ("matched-frequency", "threshold0.7", "top-images"):
        folders(root / f"imagenetv2-{name}-format-val", list("012345"), pictures)
    for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS):
        group = "extra" if name in EXTRA_CORRUPTIONS else "all"
        for severity in "13":
            folders(root / "imagenet-c" / group / name / severity, WNIDS, pictures)
    for split, name in (("c-bar", "brown_noise"), ("3dcc", "fog_3d")):
        for severity in "13":
            folders(root / f"imagenet-{split}" / name / severity, WNIDS, pictures)
    for baseline in (0, 20, 40):
        stream(root / f"ccc/baseline_{baseline}_transition+speed_1000_seed_43", pictures)
    for name in ("imagenet-r", "imagenet-a", "imagenet-sketch/sketch", "imagenet-stylized/val"):
        folders(root / name, WNIDS, pictures)
    domains = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    for name in domains:
        folders(root / "imagenet-d" / name, ["a", "b", "c", "d", "e", "none"], pictures)
    wnids = {"a": WNIDS[0], "b": WNIDS[1:3], "c": 2, "d": WNIDS[3], "e": [4], "none": None}
    write_json(root / "imagenet-d" / "classes.json", wnids)
    objectnet_tree(root / "objectnet-1.0", pictures)
    nine = ["00_dog", "00_dog", "01_bird", "01_bird", "02_wheeled vehicle", "02_wheeled vehicle"]
    for name in ("mixed_rand", "mixed_same", "only_fg"):
        folders(root / "bg_challenge" / name / "val", nine, pictures)
    write_json(
        root / "bg_challenge" / "in_to_in9.json",
        {"0": 0, "1": 0, "2": 1, "3": 1, "4": 2, "5": -1},
    )
    folders(root / "imagenet-val", WNIDS, pictures)
    return root


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(x) for x in arguments], catch_exceptions=False)


def refused(*arguments: object, message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr


def test_every_data_set_runs_and_resumes(
    bundle: Bundle, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    arguments = (tree, "--bundle", bundle.folder, *QUICK, "--output", output)
    result = invoke(*arguments)
    for split in (*SPLITS, *FITTED):
        assert f"| {split.title}" in result.stdout
    lines = (output / "results.jsonl").read_text().splitlines()
    cells = 2 * (15 + 4 + 1 + 1)
    assert len(lines) == cells + len(SPLITS) + len(FITTED) - 4
    record = json.loads((output / "paper.json").read_text())
    assert record["splits"]["c"]["cells"] == 30
    assert not record["splits"]["val"]["in_mean"]
    assert record["published_mae"]["weighted flips"] == PAPER_MAE == 5.75
    errors = [x["error"]["paper"] for x in record["splits"].values() if x["in_mean"]]
    assert len(errors) == 23
    assert record["mae"]["paper"] == pytest.approx(np.mean(errors))
    # The calibration by hand estimates 50 percent everywhere.
    truth = record["splits"]["r"]["true_accuracy"]
    assert record["splits"]["r"]["error"]["default"] == pytest.approx(abs(truth - 50))
    assert f"{record['mae']['paper']:.2f}" in result.stdout
    assert "8.17" in result.stdout
    assert "The published f is for resnet50 with 990 steps" in result.stdout
    # The same images, whatever the layout.
    same = {"r", "a", "val", "sketch", "stylized", "v2-top-images", "3dcc", "ccc-easy"}
    assert {record["splits"][name]["true_accuracy"] for name in same} == {truth}

    (output / "results.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    ran = []

    def watched(name: tuple[str, str], *rest: object, **options: object) -> object:
        ran.append(name)
        return run_cell(name, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "run_cell", watched)
    again = invoke(*arguments)
    last = json.loads(lines[-1])
    assert ran == [(last["split"], last["cell"])]
    assert again.stdout == result.stdout
    refused(*arguments, "--steps", "3", message="another network, calibration or protocol")


def test_the_truth_counts_every_class_that_is_right(bundle: Bundle, tree: Path) -> None:
    labels = bundle.labels
    found = {
        s.name: s.reader(s.cells(tree, [1])[0].folder, labels)
        for s in SPLITS
        if s.name in ("bg-only-fg", "objectnet", "d-real", "ccc-hard")
    }
    classes = {name: {x.classes for x in them} for name, them in found.items()}
    assert classes["bg-only-fg"] == {frozenset({0, 1}), frozenset({2, 3}), frozenset({4})}
    assert classes["objectnet"] == {frozenset({0, 1}), frozenset({2}), frozenset({5})}
    assert classes["d-real"] == {frozenset(x) for x in ({0}, {1, 2}, {2}, {3}, {4})}
    assert classes["ccc-hard"] == {frozenset({k}) for k in range(6)}
    assert {name: len(them) for name, them in found.items()} == {
        "bg-only-fg": 12,
        "objectnet": 8,
        "d-real": 10,
        "ccc-hard": 12,
    }
    assert found["objectnet"][0].read().shape == (SIDE, SIDE, 3)
    assert found["ccc-hard"][0].read().shape == (SIDE, SIDE, 3)


def test_weighted_flips_are_those_of_a_burst_by_hand(bundle: Bundle, tree: Path) -> None:
    engine = OnnxRuntimeCPU(bundle, threads=1)
    listed = samples.class_folders(tree / "imagenet-r", bundle.labels)
    settings = paper_settings(6, steps=7, batch=5, probes=12).with_changes(
        learning_rate=0.5, entropy_margin=5.0, redundancy_margin=2.0
    )
    ticks: list[tuple[str, int, int]] = []
    result = run_cell(
        ("r", ""),
        listed,
        bundle,
        engine,
        None,
        Protocol(settings, probes=1000, probe_batch=4, truth=9, windows=4),
        stored_crop=False,
        tick=lambda *x: ticks.append(x),
    )
    order = np.random.default_rng([42, 0]).permutation(12)
    images = samples.load(listed, bundle.manifest.preprocessing, stored_crop=False)
    truth = np.array([next(iter(x.classes)) for x in listed])
    right = engine.infer(images).argmax(1) == truth
    assert result.true_accuracy == pytest.approx(100 * right[order[:9]].mean())
    engine.reset(settings)
    before = np.concatenate([engine.adapted_logits(images[p]) for p in np.split(order, 3)])
    for step in range(7):  # two batches of 5 an epoch, two images left out
        epoch, index = divmod(step, 2)
        turn = np.random.default_rng([42, epoch + 1]).permutation(12)
        engine.step(images[turn[5 * index : 5 * index + 5]])
    after = np.concatenate([engine.adapted_logits(images[p]) for p in np.split(order, 3)])
    p = np.exp(before - before.max(1, keepdims=True))
    rank = (p.max(1) / p.sum(1)).argsort().argsort() + 1
    flipped = before.argmax(1) != after.argmax(1)
    assert 0 < flipped.sum() < 12
    assert result.flips == pytest.approx(1000 * flipped.mean())
    assert result.weighted_flips == pytest.approx(1000 * (rank * flipped).sum() / 144)
    assert result.paper_accuracy == published_f(result.weighted_flips)
    assert (result.images, result.judged, result.probes) == (12, 9, 12)
    assert result.default_accuracy is None
    assert ticks[-1] == ("labels after", 3, 3)
    assert ("steps", 7, 7) in ticks


def test_published_numbers() -> None:
    assert published_f(0) == pytest.approx(75.6618580)
    # 3.55553868e-4 * 1e4 - 0.321445023 * 100 + 75.661858, by hand.
    assert published_f(100) == pytest.approx(47.0728944)
    assert published_f(450) == pytest.approx(max(0.0, 72.0 - 144.650 + 75.662), abs=0.01)
    assert published_f(400) == pytest.approx(3.972, abs=0.01)
    settings = paper_settings(1000, published.STEPS, published.BATCH, published.PROBES)
    assert (settings.objective, settings.learning_rate) == ("rdumb", 2.5e-4)
    assert (settings.redundancy_margin, settings.window) == (0.05, 1024)
    assert len(SPLITS) == 23
    assert len({s.name for s in (*SPLITS, *FITTED)}) == 25
    assert means(rows([]))["paper"] is None


def test_images_stored_as_crops_are_not_enlarged(bundle: Bundle, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a.png").write_bytes(png(image))
    listed = samples.class_folders(tmp_path, bundle.labels)
    wide = bundle.manifest.preprocessing.__class__(image_size=SIDE, resize=2 * SIDE)
    np.testing.assert_array_equal(samples.load(listed, wide, stored_crop=True)[0], image)
    assert (samples.load(listed, wide, stored_crop=False)[0] != image).any()


@pytest.mark.parametrize(
    ("make", "splits", "message"),
    [
        (lambda r: None, "nothing", "unknown splits nothing: use v2-matched-frequency"),
        (lambda r: None, "r", r"r: none of imagenet-r below .*docs/paper.md"),
        (lambda r: None, "", "none of the data sets there; expected one of imagenetv2-"),
        (lambda r: (r / "imagenet-r" / "n99").mkdir(parents=True), "r", "no class for .* n99"),
        (lambda r: (r / "imagenet-a" / WNIDS[0]).mkdir(parents=True), "a", "no labelled images"),
        (lambda r: (r / "imagenet-c").mkdir(), "c", "no folder of gaussian_noise, shot_noise"),
        (lambda r: (r / "imagenet-3dcc").mkdir(), "3dcc", "no folder of any corruption"),
        (
            lambda r: (r / "imagenet-3dcc" / "fog_3d" / "2").mkdir(parents=True),
            "3dcc",
            r"fog_3d/1 is missing: .*--severities",
        ),
        (lambda r: (r / "ccc" / "easy").mkdir(parents=True), "ccc-easy", r"no serial_\*.tar"),
        (
            lambda r: (r / "imagenet-d" / "real" / "alarm_clock").mkdir(parents=True),
            "d-real",
            "no class for the folders alarm_clock",
        ),
        (
            lambda r: (r / "bg_challenge" / "only_fg" / "val" / "00_dog").mkdir(parents=True),
            "bg-only-fg",
            "in_to_in9.json is missing",
        ),
        (
            lambda r: (r / "objectnet" / "images" / "chair").mkdir(parents=True),
            "objectnet",
            "folder_to_objectnet_label.json is missing",
        ),
    ],
)
def test_wrong_folders_are_named(
    bundle: Bundle, tmp_path: Path, make: object, splits: str, message: str
) -> None:
    make(tmp_path)  # type: ignore[operator]
    arguments = (tmp_path, "--bundle", bundle.folder, *QUICK, "--splits", splits)
    refused(*arguments, message=message)


def test_mappings_are_checked(tmp_path: Path, pictures: list[tuple[int, bytes]]) -> None:
    labels = [Label("one", "n1"), Label("two", "n2")]
    folders(tmp_path, ["x", "y"], [(k % 2, data) for k, data in pictures])
    path = tmp_path / "classes.json"
    for content, message in (
        ("[]", "not an object"),
        ("{", "cannot read"),
        ('{"x": "n1"}', "says nothing of y: add them"),
        ('{"x": "n1", "y": "n7"}', "'y' is said to be 'n7'"),
        ('{"x": 0, "y": 2}', "'y' is said to be '2'"),
        ('{"x": null, "y": null}', "no images of the network's classes"),
    ):
        path.write_text(content)
        with pytest.raises(EdgewfError, match=re.escape(message)):
            samples.class_folders(tmp_path, labels)
    path.write_text('{"x": ["n1", "n2"], "y": null}')
    found = samples.class_folders(tmp_path, labels)
    assert {x.classes for x in found} == {frozenset({0, 1})}


def test_damaged_archives_are_named(tmp_path: Path, pictures: list[tuple[int, bytes]]) -> None:
    labels = [Label(str(k)) for k in range(3)]
    with pytest.raises(EdgewfError, match=r"input.jpg has class [345], expected"):
        samples.shards(stream(tmp_path / "many", pictures), labels)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "serial_00000.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(EdgewfError, match=r"serial_00000.tar: damaged"):
        samples.shards(tmp_path / "bad", labels)
    good = samples.shards(stream(tmp_path / "torn", [(0, b"no image")] * 2), labels)
    with pytest.raises(EdgewfError, match="image at byte 512 is damaged"):
        good[0].read()


def test_too_few_images_and_the_papers_weights(bundle: Bundle, tree: Path, tmp_path: Path) -> None:
    few = ("--bundle", bundle.folder, "--splits", "r", "--output", tmp_path)
    for arguments, message in (
        ([tree, *few], "12 images of r, fewer than a batch of 100"),
        ([tree, "--splits", "r", "--output", tmp_path], "--weights resnet50-0676ba61.pth, or give"),
        ([tree, *few, "--severities", "6"], "--severities 6: use some of 1 to 5"),
        ([tmp_path / "nowhere"], "nowhere"),
    ):
        refused(*arguments, message=message)


def test_a_missing_data_set_stays_out_unless_named(tree: Path, tmp_path: Path) -> None:
    folders_there = [s.name for s in chosen_splits(tree, [])]
    assert folders_there == [s.name for s in (*SPLITS, *FITTED)]
    (tmp_path / "imagenet-c" / "fog" / "1").mkdir(parents=True)
    (tmp_path / "imagenet-r").mkdir()
    assert [s.name for s in chosen_splits(tmp_path, [])] == ["c", "r"]
