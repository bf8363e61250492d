"""Pieces of photographs as graphs take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewf.preprocessing import Preprocessing

Image = NDArray[np.uint8]


def photographs() -> tuple[Image, ...]:
    """Return four colour photographs, uint8 [H, W, 3], that scikit-image ships."""
    from skimage import data

    return tuple(
        p[..., :3] for p in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    )


def pieces(pictures: Sequence[Image], preprocessing: Preprocessing, count: int) -> Image:
    """Cut squares out of pictures in turn, always the same: uint8 [count, S, S, 3]."""
    rng = np.random.default_rng(0)
    frames = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        side = int(rng.integers(150, min(picture.shape[:2])))
        top, left = (int(rng.integers(n - side + 1)) for n in picture.shape[:2])
        frames.append(preprocessing(picture[top : top + side, left : left + side]))
    return np.stack(frames)
