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
from edgewf.burst import run_burst, window_parts
from edgewf.calibration import Calibration, Point
from edgewf.dropout import DropoutInference
from edgewf.engines import BurstRecord, Engine, Float32, Images
from edgewf.errors import EdgewfError
from edgewf.estimators.table import References, evaluate, keys_of
from edgewf.fisher import fisher_hash, keep_fisher
from edgewf.images import read_image
from edgewf.phases.centroids import Centroids, joined
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
    cell: tuple[str, int],
    window: int,
    record: BurstRecord,
    labels: NDArray[np.int64],
    references: References,
) -> Point:
    """Summarise a burst on a window whose labels are known."""
    return Point(
        shift=cell[0],
        severity=cell[1],
        window=window,
        accuracy=float(100 * (record.deployed.label == labels).mean()),
        scores=evaluate(keys_of(record), record, references),
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
    """Measure every shift on every window; store the points and clean centroids in the bundle.

    The clean windows come first: what scores know of clean images is taken from all of them, and
    so is the Fisher information of the objective eata.

    Args:
        bundle, engine: the model.
        windows: lists of (path, label), each of settings.window images.
        settings: the burst; the calibration will be valid for these alone.
        description: recorded in the calibration.
        on_point: called with (points done, points in all, the newest or None at the start).

    Raises:
        EdgewfError: an unreadable image, or points that fix no curve.
    """
    clean, *shifts = calibration_shifts()
    dropout = DropoutInference.of(bundle)
    todo = [(cell, w) for w in range(len(windows)) for cell in shifts]
    total = len(windows) + len(todo)
    partial = _Partial(bundle.path(PARTIAL), _header(bundle, settings, windows))
    references, kept = partial.read()
    uses_fisher = settings.kernel_objective.fisher_weight > 0
    if uses_fisher and not _has_fisher(bundle):
        references, kept = None, []
    points = {point.key: point for point in kept}
    if uses_fisher and references is None:
        partial.remove()  # so that no kept point can meet Fisher information of other images
        clean_windows = (load_window(bundle, window)[0] for window in windows)
        keep_fisher(bundle, engine, clean_windows, settings)

    def tell(point: Point | None) -> None:
        if on_point is not None:
            on_point(len(points), total, point)

    def keep(point: Point) -> None:
        partial.append(point)
        points[point.key] = point
        tell(point)

    tell(None)
    if references is None or any(
        (clean[0], clean[1], w) not in points for w in range(len(windows))
    ):
        seen = []
        for window in windows:
            images, labels = load_window(bundle, window)
            seen.append((run_burst(engine, images, settings, dropout=dropout).record, labels))
        references = References.of(seen)
        partial.begin(references)
        for w, (record, labels) in enumerate(seen):
            keep(measure(clean, w, record, labels, references))
    loaded: tuple[int, Images, NDArray[np.int64]] | None = None
    for (name, severity), w in todo:
        if (name, severity, w) in points:
            continue
        if loaded is None or loaded[0] != w:
            loaded = (w, *load_window(bundle, windows[w]))
        _, images, labels = loaded
        shifted = shift(name, images, severity, seed=settings.seed + w)
        burst = run_burst(engine, shifted, settings, dropout=dropout)
        keep(measure((name, severity), w, burst.record, labels, references))
    calibration = Calibration.from_points(
        bundle.manifest,
        settings,
        [
            points[name, severity, w]
            for w in range(len(windows))
            for name, severity in (clean, *shifts)
        ],
        references,
        description,
        engine.name,
        fisher_hash(bundle) if uses_fisher else None,
    )
    engine.reset(settings)
    embeddings = [_embedded(bundle, engine, window, settings) for window in windows]
    Centroids.of_embeddings(bundle.manifest, *joined(embeddings)).write(bundle)
    calibration.write(bundle.folder)
    partial.remove()
    return calibration


def _has_fisher(bundle: Bundle) -> bool:
    try:
        bundle.fisher()
    except EdgewfError:
        return False
    return True


def _embedded(
    bundle: Bundle, engine: Engine, window: Sequence[tuple[Path, int]], settings: BurstSettings
) -> tuple[Float32, NDArray[np.int64]]:
    """Return embeddings [N, D] of a clean window before any step, and its labels [N]."""
    images, labels = load_window(bundle, window)
    parts = window_parts(len(images), settings)
    embedding = np.concatenate([engine.features(images[part]).embedding for part in parts])
    return embedding, labels[np.concatenate(parts)]


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
    """Finished points, one JSON object a line.

    Two lines precede them: what they are for, and what their scores know of clean images.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._path = path
        self._header = json.dumps(header, sort_keys=True)

    def read(self) -> tuple[References | None, list[Point]]:
        """Return what was kept; nothing if it is for other images or settings."""
        try:
            header, references, *lines = self._path.read_text(encoding="utf-8").splitlines()
            if header != self._header:
                return None, []
            known = References(**json.loads(references))
        except (FileNotFoundError, ValueError, TypeError):
            return None, []
        points: list[Point] = []
        with contextlib.suppress(ValueError, TypeError):  # ends at a line torn by a crash
            points.extend(Point(**json.loads(line)) for line in lines)
        self._write(known, points)
        return known, points

    def begin(self, references: References) -> None:
        """Start anew."""
        self._write(references, [])

    def append(self, point: Point) -> None:
        """Keep a point; it is on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(point)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self, references: References, points: Sequence[Point]) -> None:
        lines = [json.dumps(x) for x in (references.to_json(), *map(asdict, points))]
        write_text(self._path, "\n".join([self._header, *lines]) + "\n")
