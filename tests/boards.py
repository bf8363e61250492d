"""Copies of the files that Linux shows of a board, as `grep -r .` printed them.

A colon in a path has a backslash before it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

BOARDS = ("orin", "xavier")


def write_board(name: str, root: Path) -> Path:
    """Write the files of tests/data/sysfs-NAME.txt below a folder, and return that."""
    lines = (Path(__file__).parent / f"data/sysfs-{name}.txt").read_text().splitlines()
    files = defaultdict(list)
    for line in lines:
        if not line.startswith("#"):
            path, text = re.split(r"(?<!\\):", line, maxsplit=1)
            files[path.replace("\\:", ":")].append(text)
    for path, texts in files.items():
        change(root, path, "\n".join(texts))
    return root


def change(root: Path, path: str, text: str) -> None:
    """Write one of the files."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text + "\n")
