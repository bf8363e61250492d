"""Finished measurements, a line of JSON each, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Records:
    """A file of measurements by key; the last one with a key counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = dict(self._read())

    def get(self, key: str) -> Any:
        """Return what was measured under a key, None if nothing was."""
        return self._found.get(key)

    def add(self, key: str, value: Any) -> None:
        """Keep a measurement."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")
        self._found[key] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._found.values())

    def _read(self) -> Iterator[tuple[str, Any]]:
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:  # an interrupted run was writing it
                continue
            yield record["key"], record["value"]
