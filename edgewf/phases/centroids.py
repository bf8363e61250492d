"""Where clean images lie in the space of embeddings: the mean of each class, kept in the bundle."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewf.bundle import CENTROIDS, Bundle, Manifest, write_bytes
from edgewf.engines import Float32
from edgewf.errors import EdgewfError

FORMAT_VERSION = 1
MOST_BYTES = 4 << 20  # of float16: 1,000 classes of 2,048 features, and a little

Float64 = NDArray[np.float64]

# All that torn and altered zip archives and arrays raise.
_DAMAGES = (
    *(ValueError, KeyError, TypeError, EOFError, OSError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Centroids:
    """Class means of embeddings under batch statistics and the deployed affine vector.

    Attributes:
        model, fingerprint, preprocessing: of the bundle they were taken from.
        classes: int64 [C], which have images.
        points: float32 [C, D], their means, exact to float16.
        spread: mean distance of a clean frame from the nearest centroid that it is no part of,
            the unit of `distance`; above 0.
        frames: number of clean frames.
    """

    model: str
    fingerprint: str
    preprocessing: str
    classes: NDArray[np.int64]
    points: Float32
    spread: float
    frames: int

    @classmethod
    def of_embeddings(
        cls, manifest: Manifest, embedding: Float32, labels: NDArray[np.int64]
    ) -> Centroids:
        """Take the means of float32 [N, D] by true class, int64 [N]; at least 2 frames.

        Where they would take more than `MOST_BYTES`, the classes with most frames are kept.

        Raises:
            EdgewfError: embeddings that are not finite, or all the same.
        """
        if not np.isfinite(embedding).all():
            raise EdgewfError(
                f"{manifest.model} returned embeddings that are not finite on clean images: check "
                "its weights, and export it again"
            )
        classes, counts = np.unique(labels, return_counts=True)
        kept = np.argsort(-counts, kind="stable")[: max(1, MOST_BYTES // (2 * embedding.shape[1]))]
        kept.sort()
        x = embedding.astype(np.float64)
        means = np.stack([x[labels == label].mean(axis=0) for label in classes[kept]])
        spread = _spread(x, means, np.where(labels[:, None] == classes[kept], counts[kept], 0))
        if not spread > 0:
            raise EdgewfError(
                f"{manifest.model} returned the same embedding for all {len(x)} clean images: "
                "check its weights, and export it again"
            )
        half, scale = _halved(means)
        return cls(
            manifest.model,
            manifest.fingerprint,
            _text(manifest),
            classes[kept].astype(np.int64),
            half.astype(np.float32) * scale,
            spread,
            len(x),
        )

    def distance(self, embedding: Float32) -> float:
        """Return the mean distance of float32 [N, D] from the nearest centroid, over `spread`.

        1 is as far as clean frames.

        Raises:
            EdgewfError: embeddings of another length.
        """
        if embedding.shape[1] != self.points.shape[1]:
            raise EdgewfError(
                f"{CENTROIDS} has {self.points.shape[1]} features a class, the model returns "
                f"{embedding.shape[1]}: run `edgewf calibrate` on this bundle"
            )
        to_each = _distances(embedding.astype(np.float64), self.points.astype(np.float64))
        return float(to_each.min(axis=1).mean() / self.spread)

    def write(self, bundle: Bundle) -> None:
        """Write `centroids.npz` atomically into the bundle."""
        half, scale = _halved(self.points.astype(np.float64))
        header = {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "preprocessing": self.preprocessing,
            "spread": self.spread,
            "frames": self.frames,
        }
        file = io.BytesIO()
        np.savez_compressed(
            file,
            header=np.array(json.dumps(header)),
            classes=self.classes.astype(np.int32),
            points=half,
            scale=scale,
        )
        write_bytes(bundle.path(CENTROIDS), file.getvalue())

    @classmethod
    def of(cls, bundle: Bundle) -> Centroids | None:
        """Return the bundle's centroids, None if it has none, as before `edgewf calibrate`.

        Raises:
            EdgewfError: the file is damaged, or belongs to another model.
        """
        path = bundle.path(CENTROIDS)
        fix = "delete it and run `edgewf calibrate`"
        try:
            with np.load(path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                if header["format_version"] != FORMAT_VERSION:
                    raise EdgewfError(
                        f"{path}: format {header['format_version']}, this edgewf reads "
                        f"{FORMAT_VERSION}: {fix}"
                    )
                points = file["points"].astype(np.float32) * np.float32(file["scale"])
                found = cls(
                    header["model"],
                    header["fingerprint"],
                    header["preprocessing"],
                    file["classes"].astype(np.int64),
                    points,
                    float(header["spread"]),
                    int(header["frames"]),
                )
        except FileNotFoundError:
            return None
        except _DAMAGES as error:
            raise EdgewfError(f"{path}: damaged ({error}): {fix}") from error
        manifest = bundle.manifest
        if (found.fingerprint, found.preprocessing) != (manifest.fingerprint, _text(manifest)):
            raise EdgewfError(
                f"{path}: made for {found.model} with weights {found.fingerprint[:12]}, not for "
                f"this bundle's: {fix}"
            )
        if points.ndim != 2 or len(points) != len(found.classes) or not found.spread > 0:
            raise EdgewfError(f"{path}: damaged (shapes {points.shape}): {fix}")
        return found


def joined(parts: Iterable[tuple[Float32, NDArray[np.int64]]]) -> tuple[Float32, NDArray[np.int64]]:
    """Return embeddings and labels of several windows as one."""
    embeddings, labels = zip(*parts, strict=True)
    return np.concatenate(embeddings), np.concatenate(labels)


def _text(manifest: Manifest) -> str:
    return json.dumps(manifest.preprocessing.to_json(), sort_keys=True)


def _halved(points: Float64) -> tuple[NDArray[np.float16], np.float32]:
    """Return points as float16 of at most 1, and what they were divided by.

    Features may be larger than float16 can hold, or so small that it rounds them to 0.
    """
    scale = np.float32(np.abs(points).max(initial=0.0) or 1.0)
    return (points / scale).astype(np.float16), scale


def _distances(x: Float64, points: Float64) -> Float64:
    """Return Euclidean distances [N, C] of [N, D] from [C, D]."""
    squares = (x * x).sum(axis=1)[:, None] + (points * points).sum(axis=1) - 2 * x @ points.T
    found: Float64 = np.sqrt(np.maximum(squares, 0))
    return found


def _spread(x: Float64, means: Float64, member: NDArray[np.int64]) -> float:
    """Return the mean distance of frames from the nearest mean, each left out of its own class's.

    Without a frame, its class's mean lies n / (n - 1) times as far from it; a class of one frame
    has none then.

    Args:
        x: [N, D].
        means: [C, D].
        member: [N, C], the number of frames n of the class that a frame is of, else 0.
    """
    to_each = _distances(x, means)
    shared = member > 1
    to_each[shared] *= member[shared] / (member[shared] - 1)
    to_each[member == 1] = np.inf
    return float(to_each.min(axis=1).mean())
