"""Label files in the forms that people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewf.errors import EdgewfError
from edgewf.labels import Label, read_labels


def written(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "tench\ngreat white shark\n", [Label("tench"), Label("great white shark")]),
        ("a.txt", "n01\ttench\r\nn02\tcrane", [Label("tench", "n01"), Label("crane", "n02")]),
        ("a.txt", "n01\tcrane\nn02\tcrane\n", [Label("crane", "n01"), Label("crane", "n02")]),
        ("a.txt", "\ufeffŒufs\n", [Label("Œufs")]),
        ("a.json", '["cat", "dog"]', [Label("cat"), Label("dog")]),
        ("a.json", '{"1": "dog", "0": "cat"}', [Label("cat"), Label("dog")]),
        ("a.json", '{"0": ["n01", "tench"]}', [Label("tench", "n01")]),
    ],
)
def test_reads_every_form(tmp_path: Path, name: str, text: str, expected: list[Label]) -> None:
    assert read_labels(written(tmp_path, name, text)) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "no labels"),
        ("a.txt", "cat\n\ndog\n", "class 1 has a blank name"),
        ("a.txt", "n01\tcat\n\tdog\n", r"class 1 \(dog\) has a blank id"),
        ("a.txt", "n01\tcat\nn01\tdog\n", "classes 0 and 1 share the id 'n01'"),
        ("a.txt", "n01\tcat\ndog\n", "line 2: no tab"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", '"cat"', "expected a JSON list or object"),
        ("a.json", '{"0": "cat", "2": "dog"}', "no class 1"),
        ("a.json", '["cat", 3]', "class 1 is 3"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(EdgewfError, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EdgewfError, match=r"nowhere\.txt"):
        read_labels(tmp_path / "nowhere.txt")
    binary = tmp_path / "model.txt"
    binary.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(EdgewfError, match=r"model\.txt"):
        read_labels(binary)


def test_a_json_list_keeps_its_order(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(1000)]
    labels = read_labels(written(tmp_path, "a.json", json.dumps(dict(enumerate(names)))))
    assert [label.name for label in labels] == names
