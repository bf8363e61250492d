"""What this machine has for edgewf, and what each engine lacks: the facts behind a bug report.

Every fact is looked up on its own and is None where it cannot be found, so that a broken
installation is described and not one more thing that breaks.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgewf import __version__
from edgewf.doctor.machine import cameras, machine
from edgewf.doctor.nvidia import nvidia
from edgewf.doctor.software import software
from edgewf.engines.select import CANDIDATES

ROOT = Path("/")


def examine(root: Path = ROOT) -> dict[str, Any]:
    """Return the facts as JSON values; `edgewf doctor --json` prints exactly these.

    Args:
        root: where /etc, /proc, /sys and /dev are looked up.
    """
    lacks = {candidate.name: list(candidate.lacks()) for candidate in CANDIDATES}
    return {
        "edgewf": __version__,
        "machine": machine(root),
        "nvidia": nvidia(root),
        "software": software(),
        "cameras": cameras(root),
        "engines": [
            {
                "name": candidate.name,
                "description": candidate.description,
                "can_run": not lacks[candidate.name],
                "missing": [asdict(lack) for lack in lacks[candidate.name]],
            }
            for candidate in CANDIDATES
        ],
        "auto": next(c.name for c in CANDIDATES if c.automatic and not lacks[c.name]),
    }
