"""Run bursts on shifted versions of labelled images, and keep what they show.

Every finished point is kept in `calibration.partial.jsonl` inside the bundle, so that an
interrupted calibration goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewf.bundle import Bundle, write_text
from edgewf.burst import Burst, run_burst
from edgewf.calibration import Calibration, Point
from edgewf.engines import Engine, Images
from edgewf.errors import EdgewfError
from edgewf.images import read_image
from edgewf.settings import BurstSettings
from edgewf.shifts import calibration_shifts, shift

PARTIAL = "calibration.partial.jsonl"

Windows = Sequence[Sequence[tuple[Path, int]]]


def draw_windows(
    images: Sequence[tuple[Path, int]], settings: BurstSettings, count: int
) -> list[list[tuple[Path, int]]]:
    """Draw `count` disjoint windows from labelled images, in random order by the seed.

    Raises:
        EdgewfError: not enough images.
    """
    needed = count * settings.window
    if len(images) < needed:
        raise EdgewfError(
            f"{count} x {settings.window} = {needed} labelled images are needed, but there are "
            f"{len(images)}: add images, or choose fewer --windows or a smaller --window"
        )
    order = np.random.default_rng(settings.seed).permutation(len(images))[:needed]
    return [[images[i] for i in part] for part in np.split(order, count)]


def load_window(
    bundle: Bundle, window: Sequence[tuple[Path, int]]
) -> tuple[Images, NDArray[np.int64]]:
    """Read and crop a window: uint8 [N, S, S, 3] and int64 [N]."""
    preprocess = bundle.manifest.preprocessing
    images = np.stack([preprocess(read_image(path)) for path, _ in window])
    return images, np.array([label for _, label in window], np.int64)


def measure(
    name: str, severity: int, window: int, burst: Burst, labels: NDArray[np.int64]
) -> Point:
    """Summarise a burst on a window whose labels are known."""
    return Point(
        shift=name,
        severity=severity,
        window=window,
        accuracy=float(100 * (burst.record.deployed.label == labels).mean()),
        **burst.scores(),
    )


def calibrate(
    bundle: Bundle,
    engine: Engine,
    windows: Windows,
    settings: BurstSettings,
    *,
    description: str,
    on_point: Callable[[int, int, Point | None], None] | None = None,
) -> Calibration:
    """Measure every shift on every window, and store the points in the bundle.

    Args:
        bundle, engine: the model.
        windows: lists of (path, label), each of settings.window images.
        settings: the burst; the calibration will be valid for these alone.
        description: recorded in the calibration.
        on_point: called with (points done, points in all, the newest or None at the start).

    Raises:
        EdgewfError: an unreadable image, or points that fix no curve.
    """
    shifts = calibration_shifts()
    todo = [(name, severity, w) for w in range(len(windows)) for name, severity in shifts]
    partial = _Partial(bundle.path(PARTIAL), _header(bundle, settings, windows))
    points = {point.key: point for point in partial.read()}
    if on_point is not None:
        on_point(len(points), len(todo), None)
    loaded: tuple[int, Images, NDArray[np.int64]] | None = None
    for name, severity, w in todo:
        if (name, severity, w) in points:
            continue
        if loaded is None or loaded[0] != w:
            loaded = (w, *load_window(bundle, windows[w]))
        _, images, labels = loaded
        shifted = shift(name, images, severity, seed=settings.seed + w)
        point = measure(name, severity, w, run_burst(engine, shifted, settings), labels)
        partial.append(point)
        points[point.key] = point
        if on_point is not None:
            on_point(len(points), len(todo), point)
    ordered = [points[key] for key in todo]
    calibration = Calibration.from_points(
        bundle.manifest, settings, ordered, description, engine.name
    )
    calibration.write(bundle.folder)
    partial.remove()
    return calibration


def _header(bundle: Bundle, settings: BurstSettings, windows: Windows) -> dict[str, Any]:
    digest = hashlib.sha256()
    for window in windows:
        for path, label in window:
            digest.update(f"{path.name} {path.stat().st_size} {label}\n".encode())
    return {
        "fingerprint": bundle.manifest.fingerprint,
        "preprocessing": bundle.manifest.preprocessing.to_json(),
        "settings": settings.to_json(),
        "images": digest.hexdigest(),
    }


class _Partial:
    """Finished points, one JSON object a line behind a header that says what they are for."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._path = path
        self._header = json.dumps(header, sort_keys=True)

    def read(self) -> list[Point]:
        """Return the points kept; none if they are for other images or settings."""
        try:
            first, *lines = self._path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ValueError):
            first, lines = "", []
        if first != self._header:
            write_text(self._path, self._header + "\n")
            return []
        points: list[Point] = []
        with contextlib.suppress(ValueError, TypeError):  # ends at a line torn by a crash
            points.extend(Point(**json.loads(line)) for line in lines)
        kept = [json.dumps(asdict(point)) for point in points]
        write_text(self._path, "\n".join([self._header, *kept]) + "\n")
        return points

    def append(self, point: Point) -> None:
        """Keep a point; it is on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(point)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
