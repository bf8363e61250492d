"""Real data that some tests need and the repository does not carry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("EDGEWF_DATA", Path(__file__).parents[2] / "shared" / "data"))


def require(*parts: str) -> Path:
    """Return a path below the data folder, or skip the test and say what is missing."""
    path = ROOT.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} below EDGEWF_DATA, which is not there")
    return path
