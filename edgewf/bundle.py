"""The exported artefact: a folder, and the only thing that crosses from workstation to device.

manifest.json     what is inside, with sizes and hashes of the other files and of itself
infer.onnx        deployed network: images -> logits
probe.onnx        batch statistics: images, affine, source_weight -> logits, embedding;
                  source_weight is the running statistics' part of the mixture, 0 to 1
forward.onnx      as probe.onnx, and the residuals that backward.onnx takes
backward.onnx     dlogits, residuals, affine, source_weight -> affine_grad
classifier.onnx   embedding -> logits: the last linear layer, for dropout inferences; only where
                  nothing leads past the embedding
weights.bin       weights of the graphs, each stored once
affine.npy        float32 [P], the deployed BatchNorm scales and shifts
calibration.json  windows of known accuracy, once `edgewf calibrate` has run
fisher.npy        float32 [P], once it has run with the objective eata: how much the predictions
                  depend on each of `affine`
centroids.npz     mean embedding of each class on its clean images, from the same run
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.labels import Label
from edgewf.preprocessing import Preprocessing
from edgewf.settings import BurstSettings

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
GRAPHS = ("infer.onnx", "probe.onnx", "forward.onnx", "backward.onnx")
CLASSIFIER = "classifier.onnx"
WEIGHTS = "weights.bin"
AFFINE = "affine.npy"
CALIBRATION = "calibration.json"
FISHER = "fisher.npy"
CENTROIDS = "centroids.npz"

# Inputs of the backward graph that are no residuals of the forward graph.
BACKWARD_INPUTS = ("dlogits", "affine", "source_weight")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        model: name of the model.
        origin: where graph and weights came from, in words.
        fingerprint: hash of the source's weights; a calibration belongs to it.
        classes: K.
        parameters: P, length of the affine vector.
        layers: (name, channels) of each BatchNorm layer in the order of the affine vector, which
            holds each layer's scale, then its shift.
        preprocessing: from frame to graph input.
        labels: K classes, or None where the source did not know them.
        burst: settings that bursts use unless told otherwise.
        precision: "fp32", or "fp16" where convolutions and activations are float16.
        loss_scale: factor of `dlogits`, and so of the gradient; keeps small ones in range.
        residual_bytes: what forward keeps for backward, bytes an image.
        multiply_adds: of a step, forward and backward, an image.
        recomputed: share of `multiply_adds` that low memory adds.
        files: size in bytes and SHA-256 of every other file.
        edgewf_version: of the exporter.
    """

    model: str
    origin: str
    fingerprint: str
    classes: int
    parameters: int
    layers: tuple[tuple[str, int], ...]
    preprocessing: Preprocessing
    labels: tuple[Label, ...] | None
    burst: BurstSettings
    edgewf_version: str
    precision: str = "fp32"
    loss_scale: float = 1.0
    residual_bytes: int = 0
    multiply_adds: int = 0
    recomputed: float = 0.0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def with_files(self, files: dict[str, dict[str, Any]]) -> Manifest:
        """Return a copy that lists `files`."""
        return replace(self, files=files)

    def write(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        record = {
            "format_version": FORMAT_VERSION,
            "edgewf_version": self.edgewf_version,
            "model": self.model,
            "origin": self.origin,
            "fingerprint": self.fingerprint,
            "classes": self.classes,
            "parameters": self.parameters,
            "preprocessing": self.preprocessing.to_json(),
            "burst": self.burst.to_json(),
            "precision": self.precision,
            "loss_scale": self.loss_scale,
            "residual_bytes": self.residual_bytes,
            "multiply_adds": self.multiply_adds,
            "recomputed": self.recomputed,
            "layers": [list(layer) for layer in self.layers],
            "labels": None if self.labels is None else [asdict(label) for label in self.labels],
            "files": self.files,
        }
        record["sha256"] = content_hash(record)
        write_text(folder / MANIFEST, json.dumps(record, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read `manifest.json`.

        Raises:
            EdgewfError: missing, altered, or of another format.
        """
        path = folder / MANIFEST
        if not folder.is_dir():
            raise EdgewfError(f"{folder}: no such bundle folder; make one with `edgewf export`")
        if not path.is_file():
            raise EdgewfError(f"{folder} is no bundle: it has no {MANIFEST}")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            version = record["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, f"not a manifest ({error})") from error
        if version != FORMAT_VERSION:
            raise EdgewfError(
                f"{path}: bundle format {version}, this edgewf reads {FORMAT_VERSION}: "
                "export the model again with this version"
            )
        if record.pop("sha256", None) != content_hash(record):
            raise _damaged(path, "its content differs from its SHA-256")
        try:
            labels = record["labels"]
            return cls(
                model=record["model"],
                origin=record["origin"],
                fingerprint=record["fingerprint"],
                classes=int(record["classes"]),
                parameters=int(record["parameters"]),
                layers=tuple((str(name), int(n)) for name, n in record["layers"]),
                preprocessing=Preprocessing.from_json(record["preprocessing"]),
                labels=None if labels is None else tuple(Label(**label) for label in labels),
                burst=BurstSettings.from_json(record["burst"]),
                edgewf_version=record["edgewf_version"],
                precision=str(record["precision"]),
                loss_scale=float(record["loss_scale"]),
                residual_bytes=int(record["residual_bytes"]),
                multiply_adds=int(record["multiply_adds"]),
                recomputed=float(record["recomputed"]),
                files=record["files"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(path, f"bad or missing entry {error}") from error


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked: formats, hashes and shapes agree.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        affine: float32 [P], read-only.
    """

    folder: Path
    manifest: Manifest
    affine: NDArray[np.float32]

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read a bundle and check every file against the manifest.

        Raises:
            EdgewfError: a missing, truncated or altered file, named with its path.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)
        optional = [name for name in (CLASSIFIER,) if name in manifest.files]
        for name in (*GRAPHS, *optional, WEIGHTS, AFFINE):
            path = folder / name
            if name not in manifest.files:
                raise _damaged(folder / MANIFEST, f"does not list {name}")
            if not path.is_file():
                raise _damaged(path, "missing")
            expected = manifest.files[name]
            size = path.stat().st_size
            if size != expected["bytes"]:
                raise _damaged(path, f"{size} bytes, expected {expected['bytes']}")
            if file_record(path)["sha256"] != expected["sha256"]:
                raise _damaged(path, "its SHA-256 differs from the manifest's")
        affine = np.load(folder / AFFINE, allow_pickle=False)
        if affine.shape != (manifest.parameters,) or affine.dtype != np.float32:
            raise _damaged(
                folder / AFFINE,
                f"{affine.dtype} {affine.shape}, expected float32 ({manifest.parameters},)",
            )
        if 2 * sum(channels for _, channels in manifest.layers) != manifest.parameters:
            raise _damaged(folder / MANIFEST, "layers do not add up to the number of parameters")
        if manifest.labels is not None and len(manifest.labels) != manifest.classes:
            raise _damaged(
                folder / MANIFEST, f"{len(manifest.labels)} labels for {manifest.classes} classes"
            )
        affine.setflags(write=False)
        return cls(folder, manifest, affine)

    @property
    def labels(self) -> list[Label]:
        """The class names; the bare indices where the source did not know any."""
        if self.manifest.labels is not None:
            return list(self.manifest.labels)
        return [Label(str(i)) for i in range(self.manifest.classes)]

    def fisher(self) -> NDArray[np.float32]:
        """Return the Fisher information that the objective eata needs, float32 [P].

        Raises:
            EdgewfError: there is none yet, or the file is damaged.
        """
        path = self.folder / FISHER
        again = f"run `edgewf calibrate {self.folder} --objective eata --data DIR`"
        try:
            fisher = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise EdgewfError(
                f"{self.folder} has no {FISHER}, which the objective eata needs: {again}"
            ) from None
        except (OSError, ValueError, EOFError) as error:
            raise EdgewfError(f"{path}: damaged ({error}): {again}") from error
        if fisher.shape != self.affine.shape or fisher.dtype != np.float32:
            raise EdgewfError(
                f"{path}: {fisher.dtype} {fisher.shape}, expected float32 {self.affine.shape}: "
                f"{again}"
            )
        if not (np.isfinite(fisher).all() and (fisher >= 0).all()):
            raise EdgewfError(f"{path}: holds values that no squares are: {again}")
        return np.asarray(fisher, np.float32)

    def path(self, name: str) -> Path:
        """Return the path of a file of the bundle."""
        return self.folder / name


def file_record(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def content_hash(record: dict[str, Any]) -> str:
    """Return the SHA-256 of a JSON object's content, however it is laid out."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: the old content or the new, never half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically, see `write_text`."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _damaged(path: Path, what: str) -> EdgewfError:
    return EdgewfError(f"damaged bundle: {path}: {what}; copy or export the bundle again")
