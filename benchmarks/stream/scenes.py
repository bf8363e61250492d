"""Streams with known labels that a camera could give: things in order of their class, and a pan."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewf.engines import Images

_LEAST = 0.8  # a view beside the whole picture


@dataclass(frozen=True)
class Scene:
    """What a camera shows, frame by frame.

    Attributes:
        name: for tables.
        shown: int64 [F], which picture.
        views: float64 [F, 3]: left, top (0 to 1 of what is left over) and size of the rectangle.
        mirrored: bool [F].
    """

    name: str
    shown: NDArray[np.int64]
    views: NDArray[np.float64]
    mirrored: NDArray[np.bool_]

    def frame(self, pictures: Images, i: int) -> Images:
        """Return frame i of pictures [N, S, S, 3], uint8 [S, S, 3]."""
        picture = pictures[self.shown[i]]
        side = len(picture)
        left, top, size = self.views[i]
        part = size * side
        # Between the pixels, so that small pictures pan smoothly, too.
        x, y = left * (side - part), top * (side - part)
        scale = part / side
        matrix = np.array([[scale, 0, x], [0, scale, y]])
        view = cv2.warpAffine(
            picture,
            matrix,
            (side, side),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        return np.ascontiguousarray(view[:, ::-1] if self.mirrored[i] else view)

    def frames(self, pictures: Images) -> Images:
        """Return all frames, uint8 [F, S, S, 3]."""
        return np.stack([self.frame(pictures, i) for i in range(len(self.shown))])


def scenes(labels: NDArray[np.int64], size: int) -> list[Scene]:
    """Return the streams for windows of so many frames, each some 15 windows long.

    Args:
        labels: int64 [N] of the pictures.
        size: frames in a window.
    """
    classes = len(np.unique(labels))
    uneven = 1 / (1 + np.arange(classes))  # Zipf
    np.random.default_rng(2).shuffle(uneven)
    return [
        _by_class("by class", labels, 5 * size, np.full(classes, 1 / classes)),
        _by_class("by class, uneven", labels, 5 * size, uneven / uneven.sum()),
        _pan("panning", labels, size // 2, 15),
    ]


def _by_class(
    name: str, labels: NDArray[np.int64], length: int, shares: NDArray[np.float64]
) -> Scene:
    """Show one class after the other, in three rounds, every frame another random view.

    Args:
        name: of the scene.
        labels: int64 [N] of the pictures.
        length: frames in a round, about.
        shares: of the classes in it, in the order of their index.
    """
    rng = np.random.default_rng(0)
    rounds = []
    for _ in range(3):
        for label, share in zip(np.unique(labels), shares, strict=True):
            count = max(1, round(length * share))
            pool = np.flatnonzero(labels == label)
            times = -(-count // len(pool))
            rounds.append(np.concatenate([rng.permutation(pool) for _ in range(times)])[:count])
    shown = np.concatenate(rounds)
    size = rng.uniform(_LEAST, 1, len(shown))
    views = np.column_stack([rng.uniform(size=(len(shown), 2)), size])
    return Scene(name, shown, views, rng.random(len(shown)) < 0.5)


def _pan(name: str, labels: NDArray[np.int64], pictures: int, length: int) -> Scene:
    """Pan over one picture after the other in order of their class, in two rounds.

    Args:
        name: of the scene.
        labels: int64 [N] of the pictures.
        pictures: how many of them, drawn at random.
        length: frames of each.
    """
    rng = np.random.default_rng(1)
    chosen = rng.permutation(len(labels))[:pictures]
    shown, views, mirrored = [], [], []
    for _ in range(2):
        for picture in chosen[np.argsort(labels[chosen], kind="stable")]:
            start, end = rng.uniform(size=(2, 2))
            path = start + np.linspace(0, 1, length)[:, np.newaxis] * (end - start)
            views.append(np.column_stack([path, np.full(length, _LEAST)]))
            shown.append(np.full(length, picture))
            mirrored.append(np.full(length, rng.random() < 0.5))
    return Scene(name, np.concatenate(shown), np.concatenate(views), np.concatenate(mirrored))
