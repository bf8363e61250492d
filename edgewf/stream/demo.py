"""A film without a camera: photographs that get worse and better again."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.images import read_image
from edgewf.preprocessing import Image
from edgewf.stream.frame import Frame, Source

WIDTH, HEIGHT = 320, 240

# Photographs in the wheel of scikit-image; nothing is downloaded. Those that an ImageNet classifier
# knows something about are shown twice as often.
SUBJECTS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
SCENERY = (
    "brick.png",
    "coins.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_right.png",
    "retina.jpg",
)
_FEWEST = 8  # releases of scikit-image may drop a file; batch statistics want variety

# Ends of the clean start, of the way down, of the worst part and of the way up, as shares of the
# film.
_SCHEDULE = (0.30, 0.50, 0.60, 0.75)


def severity(position: float) -> float:
    """Return how bad the picture is, 0 (clean) to 1, at a position from 0 to 1 in the film."""
    return float(np.interp(position, _SCHEDULE, (0.0, 1.0, 1.0, 0.0)))


def degrade(image: Image, severity: float, rng: np.random.Generator) -> Image:
    """Return the picture of a camera out of focus in fading light; severity 0 changes nothing.

    In the order of a real camera: the lens blurs, less light arrives, the sensor adds noise.
    """
    if severity == 0.0:
        return image
    blurred = cv2.GaussianBlur(image, (0, 0), 2.0 * severity)
    dim = blurred.astype(np.float32) * np.float32(1.0 - 0.65 * severity)
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(18.0 * severity)
    return np.asarray(np.clip(np.rint(dim + noise), 0, 255), np.uint8)


# A view is (x, y, size), each from 0 to 1: where the rectangle of a frame lies in a photograph, and
# how large it is beside the largest that fits. A closer look would hide what the picture shows.
_LEAST = (0.0, 0.0, 0.8)


@dataclass(frozen=True)
class _Shot:
    first: int
    length: int
    photograph: int
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    mirrored: bool


class DemoSource(Source):
    """A moving camera over the photographs of scikit-image, 320 by 240.

    It pans and zooms and cuts to another photograph every few frames, so that a few seconds show
    most of them. The picture is clean for the first 30 %, then blur, darkness and noise grow until
    the middle, stay, fade, and the last 25 % are clean again. The same seed gives the same frames.

    Raises:
        EdgewfError: scikit-image is not installed.
    """

    def __init__(self, *, seed: int = 0, frames: int = 2500) -> None:
        self.uri = f"demo?frames={frames}&seed={seed}"
        self.live = False
        self.frames_total: int | None = frames
        self._frames = frames
        self._seed = seed
        self._photographs = _photographs()
        self._shots = _cut(frames, len(self._photographs), np.random.default_rng(seed))

    def __iter__(self) -> Iterator[Frame]:
        for shot in self._shots:
            for index in range(shot.first, min(shot.first + shot.length, self._frames)):
                yield self._frame(shot, index)

    def close(self) -> None:
        pass

    def _frame(self, shot: _Shot, index: int) -> Frame:
        part = (index - shot.first) / (shot.length - 1)
        image = _film(self._photographs[shot.photograph], shot, part)
        rng = np.random.default_rng([self._seed, index])
        bad = severity(index / max(1, self._frames - 1))
        return Frame(degrade(image, bad, rng), index, time.time())


def _photographs() -> list[Image]:
    """Return what one round shows, a repeated photograph as the same array twice."""
    package = importlib.util.find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise EdgewfError("the demo needs scikit-image: `pip install edgewf[demo]`")
    folder = Path(package.submodule_search_locations[0]) / "data"
    found = {
        name: read_image(folder / name)
        for name in (*SUBJECTS, *SCENERY)
        if (folder / name).is_file()
    }
    if len(found) < _FEWEST:
        raise EdgewfError(
            f"{folder} holds only {len(found)} of the demo's {len(SUBJECTS) + len(SCENERY)} "
            "photographs: `pip install --force-reinstall 'scikit-image>=0.22'`"
        )
    return [found[name] for name in (*SUBJECTS, *SUBJECTS, *SCENERY) if name in found]


def _cut(frames: int, photographs: int, rng: np.random.Generator) -> list[_Shot]:
    """Return shots of 3 or 4 frames; each round shows every photograph, in a new order."""
    shots: list[_Shot] = []
    first = 0
    while first < frames:
        for photograph in rng.permutation(photographs):
            start = rng.uniform(_LEAST, 1.0)
            step = rng.uniform(0.1, 0.3, 3) * rng.choice((-1.0, 1.0), 3)
            shot = _Shot(
                first=first,
                length=int(rng.integers(3, 5)),
                photograph=int(photograph),
                start=start,
                end=np.clip(start + step, _LEAST, 1.0),
                mirrored=bool(rng.integers(2)),
            )
            shots.append(shot)
            first += shot.length
    return [shot for shot in shots if shot.first < frames]


def _film(photograph: Image, shot: _Shot, part: float) -> Image:
    height, width = photograph.shape[:2]
    x, y, size = shot.start + part * (shot.end - shot.start)
    scale = size * min(width / WIDTH, height / HEIGHT)
    w, h = round(WIDTH * scale), round(HEIGHT * scale)
    left, top = round(x * (width - w)), round(y * (height - h))
    view = photograph[top : top + h, left : left + w]
    mode = cv2.INTER_AREA if scale > 1.0 else cv2.INTER_CUBIC
    frame = cv2.resize(view, (WIDTH, HEIGHT), interpolation=mode)
    return np.ascontiguousarray(frame[:, ::-1] if shot.mirrored else frame)
