"""Bundles on disk: what is written is read back, and what was damaged is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewf.bundle import (
    AFFINE,
    CLASSIFIER,
    GRAPHS,
    MANIFEST,
    WEIGHTS,
    Bundle,
    file_record,
    write_text,
)
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.export.assemble import Graphs, assemble
from edgewf.export.exporter import export_bundle
from edgewf.export.sources import Source
from edgewf.export.sources.registry import load_source
from edgewf.export.storage import write_bundle
from edgewf.labels import Label

LABELS = [Label(f"class {i}", f"n{i}") for i in range(10)]


@pytest.fixture(scope="module")
def source() -> Source:
    torch.manual_seed(0)
    return load_source("tests.cifar_resnet:resnet20", image_size=32, resize=36)


@pytest.fixture(scope="module")
def exported(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(source, tmp_path_factory.mktemp("bundle") / "resnet20", labels=LABELS)


@pytest.fixture
def folder(exported: Bundle, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported.folder, tmp_path / "bundle"))


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Round trip -------------------------------------------------------------------------------------


def test_round_trip(source: Source, exported: Bundle) -> None:
    bundle = Bundle.load(str(exported.folder))
    assert bundle.manifest == exported.manifest
    assert bundle.manifest.fingerprint == source.fingerprint
    assert bundle.manifest.preprocessing == source.preprocessing
    assert bundle.manifest.preprocessing.resize == 36
    assert bundle.manifest.classes == 10
    assert bundle.labels == LABELS
    assert bundle.affine.dtype == np.float32
    assert bundle.affine.shape == (bundle.manifest.parameters,)
    assert bundle.manifest.parameters == 2 * sum(n for _, n in bundle.manifest.layers) == 1376
    assert entries(exported.folder) == {MANIFEST, *GRAPHS, CLASSIFIER, WEIGHTS, AFFINE}


def test_affine_vector_cannot_be_written_to(exported: Bundle) -> None:
    with pytest.raises(ValueError, match="read-only"):
        exported.affine[0] = 1.0


def test_labels_are_indices_where_none_are_known(source: Source, tmp_path: Path) -> None:
    bundle = export_bundle(source, tmp_path / "bundle")
    assert bundle.manifest.labels is None
    assert Bundle.load(bundle.folder).labels == [Label(str(i)) for i in range(10)]


def test_bundle_may_move(exported: Bundle, folder: Path, tmp_path: Path) -> None:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    expected = OnnxRuntimeCPU(exported, threads=1).infer(images)
    moved = folder.rename(tmp_path / "moved elsewhere")
    assert np.array_equal(OnnxRuntimeCPU(Bundle.load(moved), threads=1).infer(images), expected)


def test_every_user_may_read_it(exported: Bundle) -> None:
    assert exported.folder.stat().st_mode & 0o055 == 0o055
    for path in exported.folder.iterdir():
        assert path.stat().st_mode & 0o044 == 0o044, path.name


# Damage -----------------------------------------------------------------------------------------

FILES = (*GRAPHS, WEIGHTS, AFFINE)


def refuse(folder: Path, *parts: str) -> None:
    """Loading fails and the message has the parts."""
    with pytest.raises(EdgewfError) as error:
        Bundle.load(folder)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refuse(folder, str(folder / name), "missing", "export the bundle again")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_truncated_file(folder: Path, name: str, kept: float) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(kept * (len(data) - 1))])
    refuse(folder, str(folder / name), f"expected {len(data)}")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_flipped_bit(folder: Path, name: str, place: float) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    (folder / name).write_bytes(data)
    refuse(folder, str(folder / name), "SHA-256")


def test_missing_folder_and_manifest(folder: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", str(tmp_path / "nowhere"), "no such bundle", "edgewf export")
    (folder / MANIFEST).unlink()
    refuse(folder, str(folder), "no manifest.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"manifest"', "{}", "\udcff"])
def test_manifest_that_is_none(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    refuse(folder, str(folder / MANIFEST), "not a manifest")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_manifest(folder: Path, kept: float) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: int(kept * len(text))])
    refuse(folder, str(folder / MANIFEST), "not a manifest")


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_other_format_version(folder: Path, version: object) -> None:
    record = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**record, "format_version": version}))
    refuse(
        folder, str(folder / MANIFEST), f"bundle format {version}", "reads 2", "export the model"
    )


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_of_the_manifest(
    exported: Bundle, folder: Path, place: float, bit: int
) -> None:
    text = bytearray((exported.folder / MANIFEST).read_bytes())
    text[int(place * len(text))] ^= 1 << bit
    (folder / MANIFEST).write_bytes(text)
    refuse(folder, str(folder / MANIFEST))


def test_manifest_may_be_laid_out_anew(exported: Bundle, folder: Path) -> None:
    record = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(dict(reversed(record.items()))))
    assert Bundle.load(folder).manifest == exported.manifest


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"labels": tuple(LABELS[1:])}, "9 labels for 10 classes"),
        ({"classes": 11}, "10 labels for 11 classes"),
        ({"layers": (("bn1", 16),)}, "do not add up"),
        ({"files": {}}, "does not list infer.onnx"),
    ],
    ids=["labels", "classes", "layers", "files"],
)
def test_manifest_that_contradicts_itself(
    exported: Bundle, folder: Path, changes: dict[str, Any], what: str
) -> None:
    replace(exported.manifest, **changes).write(folder)
    refuse(folder, str(folder / MANIFEST), what)


@pytest.mark.parametrize(
    "vector",
    [np.zeros(7, np.float32), np.zeros(1376), np.zeros((2, 688), np.float32)],
    ids=["length", "type", "rank"],
)
def test_affine_vector_of_another_shape(
    exported: Bundle, folder: Path, vector: np.ndarray[Any, Any]
) -> None:
    np.save(folder / AFFINE, vector)
    files = {**exported.manifest.files, AFFINE: file_record(folder / AFFINE)}
    exported.manifest.with_files(files).write(folder)
    refuse(folder, str(folder / AFFINE), str(vector.dtype), str(vector.shape), "(1376,)")


# Writing ----------------------------------------------------------------------------------------


@pytest.fixture
def graphs(source: Source) -> Graphs:
    return assemble(source.graph, source.preprocessing, source.name)


def test_existing_bundle_is_replaced_only_on_request(
    source: Source, folder: Path, tmp_path: Path
) -> None:
    before = contents(folder)
    with pytest.raises(
        EdgewfError, match=r"already holds a bundle: name another .* or add --force"
    ):
        export_bundle(source, folder)
    assert contents(folder) == before
    replaced = export_bundle(source, folder, overwrite=True)
    assert replaced.manifest.labels is None
    assert entries(tmp_path) == {"bundle"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_bundle_is_left_alone(source: Source, tmp_path: Path, overwrite: bool) -> None:
    folder, file = tmp_path / "photos", tmp_path / "file"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"meow")
    file.write_bytes(b"text")
    for output in (folder, file):
        with pytest.raises(EdgewfError, match=f"{output} exists and is not a bundle"):
            export_bundle(source, output, overwrite=overwrite)
    assert contents(folder) == {"cat.jpg": b"meow"}
    assert file.read_bytes() == b"text"
    assert entries(tmp_path) == {"photos", "file"}


def test_empty_folder_and_missing_parents_are_fine(source: Source, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for output in (tmp_path / "empty", tmp_path / "a" / "b" / "bundle"):
        assert export_bundle(source, output).folder == output
    assert entries(tmp_path) == {"empty", "a"}
    assert entries(tmp_path / "a" / "b") == {"bundle"}


def with_unreadable_weight(graphs: Graphs) -> Graphs:
    """Let a weight that only the backward graph holds lie in a file that has gone."""
    weight = next(
        value
        for name, value in graphs.backward.graph.initializers.items()
        if name not in graphs.forward.graph.initializers and value.dtype == ir.DataType.FLOAT
    )
    weight.const_value = ir.ExternalTensor(
        "gone.bin", 0, None, ir.DataType.FLOAT, shape=ir.Shape([1]), name="gone"
    )
    return graphs


@pytest.mark.parametrize("existing", [True, False])
def test_export_that_fails_half_way_leaves_nothing(
    graphs: Graphs, exported: Bundle, folder: Path, tmp_path: Path, existing: bool
) -> None:
    """The weights of the last graph cannot be read when those of two are written."""
    before = contents(folder)
    output = folder if existing else tmp_path / "new"
    with pytest.raises(FileNotFoundError):
        write_bundle(output, with_unreadable_weight(graphs), exported.manifest, overwrite=True)
    assert contents(folder) == before
    assert entries(tmp_path) == {"bundle"}
    Bundle.load(folder)


def test_old_bundle_comes_back_if_the_new_one_cannot_take_its_place(
    graphs: Graphs,
    exported: Bundle,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = contents(folder)
    replace_file = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(target) == folder and (Path(source) / MANIFEST).is_file() and not calls:
            calls.append(source)
            raise KeyboardInterrupt
        replace_file(source, target)

    calls: list[Path] = []
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(folder, graphs, exported.manifest, overwrite=True)
    assert calls
    assert contents(folder) == before
    assert entries(tmp_path) == {"bundle"}


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \udcff")
    assert path.read_text() == "old"
    assert entries(tmp_path) == {"record.json"}
    write_text(path, "new")
    assert path.read_text() == "new"


# Weights ----------------------------------------------------------------------------------------


def test_weights_are_stored_once(tmp_path: Path) -> None:
    source = load_source("resnet50", weights="none")
    weights = sum(
        v.const_value.nbytes
        for v in source.graph.graph.initializers.values()
        if v.const_value is not None
    )
    bundle = export_bundle(source, tmp_path / "bundle")
    total = sum(path.stat().st_size for path in bundle.folder.iterdir())
    assert weights < total <= 1.15 * weights
    assert weights > 100e6


def test_shared_weights_are_aligned_and_inside_the_file(exported: Bundle) -> None:
    size = exported.path(WEIGHTS).stat().st_size
    places: set[tuple[int, int]] = set()
    for name in GRAPHS:
        graph = onnx.load(exported.path(name), load_external_data=False).graph
        for tensor in graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if not place:
                continue
            offset, length = int(place["offset"]), int(place["length"])
            assert place["location"] == WEIGHTS
            assert offset % 64 == 0
            assert offset + length <= size
            places.add((offset, length))
    ends = sorted(places)
    assert all(a + n <= b for (a, n), (b, _) in pairwise(ends))
    assert sum(n for _, n in ends) > 0.9 * size


def test_manifest_lists_every_other_file(exported: Bundle) -> None:
    assert set(exported.manifest.files) == entries(exported.folder) - {MANIFEST}
    for name, record in exported.manifest.files.items():
        assert record == file_record(exported.path(name))
