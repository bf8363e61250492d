"""The classes of a model, in the order of its outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewf.errors import EdgewfError


@dataclass(frozen=True)
class Label:
    """One class. `id` is a stable key where the data set has one (a WordNet id in ImageNet)."""

    name: str
    id: str | None = None


def read_labels(path: str | Path) -> list[Label]:
    """Read the class names of a model from a text or JSON file (UTF-8).

    A text file holds one class a line, `name` or `id<TAB>name`, all lines alike. A JSON file
    (suffix `.json`) holds a list, or an object whose keys are the class indices "0", "1", ...;
    each class is "name" or ["id", "name"].

    Raises:
        EdgewfError: unreadable or empty file, a blank id or name, an id given twice, a missing
            class index. Names may repeat (ImageNet has two of "crane").
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgewfError(
            f"cannot read labels from {path}: {error}; give a UTF-8 text or JSON file"
        ) from error
    labels = _from_json(text, path) if path.suffix.lower() == ".json" else _from_lines(text, path)
    if not labels:
        raise EdgewfError(f"{path} holds no labels: write one class a line")
    _check(labels, path)
    return labels


def _from_lines(text: str, path: Path) -> list[Label]:
    lines = text.rstrip().splitlines()
    with_id = ["\t" in line for line in lines]
    if any(with_id) and not all(with_id):
        raise EdgewfError(
            f"{path}, line {with_id.index(False) + 1}: no tab, though other lines are "
            "`id<TAB>name`; write all lines alike"
        )
    labels = []
    for line in lines:
        left, tab, right = line.partition("\t")
        labels.append(Label(right.strip(), left.strip()) if tab else Label(left.strip()))
    return labels


def _from_json(text: str, path: Path) -> list[Label]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise EdgewfError(f"{path} is not valid JSON: {error}") from error
    if isinstance(content, dict):
        missing = next((i for i in range(len(content)) if str(i) not in content), None)
        if missing is not None:
            raise EdgewfError(
                f"{path}: no class {missing}; the keys must be the class indices "
                f'"0" to "{len(content) - 1}"'
            )
        content = [content[str(i)] for i in range(len(content))]
    if not isinstance(content, list):
        raise EdgewfError(f"{path}: expected a JSON list or object, found {content!r:.40}")
    return [_label(entry, index, path) for index, entry in enumerate(content)]


def _label(entry: Any, index: int, path: Path) -> Label:
    if isinstance(entry, str):
        return Label(entry.strip())
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry):
        return Label(entry[1].strip(), entry[0].strip())
    raise EdgewfError(
        f'{path}: class {index} is {entry!r:.40}; write it as "name" or ["id", "name"]'
    )


def _check(labels: list[Label], path: Path) -> None:
    first: dict[str, int] = {}
    for index, label in enumerate(labels):
        if not label.name:
            raise EdgewfError(f"{path}: class {index} has a blank name; give every class a name")
        if label.id is None:
            continue
        if not label.id:
            raise EdgewfError(f"{path}: class {index} ({label.name}) has a blank id")
        if label.id in first:
            raise EdgewfError(
                f"{path}: classes {first[label.id]} and {index} share the id {label.id!r}; "
                "ids must differ"
            )
        first[label.id] = index
