"""Calibrations that come with the package, for models whose weights come with a package too."""

from __future__ import annotations

from importlib import resources

from edgewf.bundle import Manifest
from edgewf.calibration import Calibration

_SUFFIX = ".calibration.json"


def shipped_calibration(manifest: Manifest) -> Calibration | None:
    """Return the calibration made for exactly these weights and preprocessing, if there is one."""
    for entry in (resources.files("edgewf") / "data").iterdir():
        if entry.name.endswith(_SUFFIX):
            calibration = Calibration.from_text(entry.read_text(encoding="utf-8"), entry.name)
            if calibration.fits(manifest):
                return calibration
    return None
