"""OpenVINO's modules, imported without its usage reports.

`import openvino` sends a report over the network from a fork of the process, unless the package
openvino_telemetry is missing. On a device nobody asked for that; and the fork waits for an answer
with the monitor's stdout, stderr and locks, so that who reads those waits for it as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ConstantFolding", "Manager", "op", "ov"]

_REPORTS = "openvino_telemetry"


@contextmanager
def _without_reports() -> Iterator[None]:
    """Hide the package; what was imported before is there again afterwards."""
    hidden = {name: sys.modules[name] for name in [*sys.modules] if name.split(".")[0] == _REPORTS}
    for name in hidden:
        del sys.modules[name]
    sys.modules[_REPORTS] = None  # type: ignore[assignment]  # an import of it fails
    try:
        yield
    finally:
        del sys.modules[_REPORTS]
        sys.modules.update(hidden)


with _without_reports():
    import openvino as ov
    import openvino.opset13 as op
    from openvino.passes import ConstantFolding, Manager
