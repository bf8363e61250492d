"""Pictures by matplotlib, an optional package: whether it is there, and how they reach the disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from edgewf.bundle import write_bytes
from edgewf.errors import EdgewfError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_matplotlib(option: str) -> None:
    """Refuse to draw where matplotlib is missing, before anything is measured.

    Args:
        option: that asks for the picture, as in "--plot".

    Raises:
        EdgewfError: it is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EdgewfError(f"{option} needs matplotlib: pip install 'edgewf[plot]'") from error


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format that the path ends in."""
    file = io.BytesIO()
    figure.savefig(file, format=path.suffix[1:].lower())
    write_bytes(path, file.getvalue())
