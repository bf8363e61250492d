"""The page's own files, read once: no request ever reaches the file system."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "login.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "chart.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """A file, its type, and the tag that tells browsers whether theirs is the same."""

    body: bytes
    type: str
    tag: str


def load_assets() -> dict[str, Asset]:
    """Return the files by name."""
    folder = files("edgewf.dashboard") / "static"
    found = {}
    for name, kind in _TYPES.items():
        body = (folder / name).read_bytes()
        found[name] = Asset(body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
    return found
