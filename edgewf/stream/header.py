"""What precedes each frame that the capture process sends."""

from __future__ import annotations

import struct

HEADER = struct.Struct("<II")
"""Height and width in pixels, little-endian uint32; RGB bytes follow."""
