"""A frame as a small JPEG."""

from __future__ import annotations

import cv2
import numpy as np

from edgewf.errors import EdgewfError
from edgewf.preprocessing import Image

QUALITY = 80


def thumbnail(frame: Image | None, side: int = 320) -> bytes | None:
    """Return a JPEG, at most `side` pixels wide and high; None of None.

    Args:
        frame: uint8 [H, W, 3] RGB; a smaller one keeps its size.

    Raises:
        EdgewfError: OpenCV cannot encode it.
    """
    if frame is None:
        return None
    height, width = frame.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), quality)
    if not done:
        raise EdgewfError(f"a frame of {width} x {height} pixels makes no JPEG")
    return bytes(data)
