"""Pictures to measure with: cameras' in size and detail, made of noise, so that none are needed."""

from __future__ import annotations

import cv2
import numpy as np

from edgewf.engines import Images
from edgewf.preprocessing import Image, Preprocessing

CAMERA = (720, 1280)
"""Height and width of the camera frame that preprocessing is timed on."""

_COARSEST = 8


def camera_frame(seed: int) -> Image:
    """Return uint8 [720, 1280, 3]: smooth patches with finer and finer noise on them."""
    rng = np.random.default_rng(seed)
    height, width = CAMERA
    picture = np.full((height, width, 3), 128, np.float32)
    cells, strength = _COARSEST, 64.0
    while cells < width // 2:
        noise = rng.standard_normal((cells * height // width + 1, cells, 3), np.float32)
        picture += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, strength = 4 * cells, strength / 2
    clipped: Image = np.clip(picture, 0, 255).astype(np.uint8)
    return clipped


def window(preprocessing: Preprocessing, count: int) -> Images:
    """Return uint8 [count, S, S, 3], pieces of four camera frames."""
    rng = np.random.default_rng(0)
    pictures = [camera_frame(i) for i in range(4)]
    frames = []
    for i in range(count):
        side = int(rng.integers(200, CAMERA[0]))
        top, left = (int(rng.integers(length - side + 1)) for length in CAMERA)
        frames.append(preprocessing(pictures[i % 4][top : top + side, left : left + side]))
    return np.stack(frames)
