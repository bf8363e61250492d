"""Write a bundle folder: every weight once, the whole folder or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from edgewf.bundle import AFFINE, CLASSIFIER, GRAPHS, WEIGHTS, Manifest, file_record
from edgewf.calibration import Calibration
from edgewf.errors import EdgewfError
from edgewf.export.assemble import Graphs

# Smaller tensors stay inside the graphs, and so do integers: parsers read axes and shapes there.
_SHARED_BYTES = 256
_ALIGNMENT = 64


def write_bundle(
    output: Path,
    graphs: Graphs,
    manifest: Manifest,
    calibration: Calibration | None = None,
    *,
    overwrite: bool,
) -> None:
    """Write graphs, weights, affine vector, manifest and calibration to the folder `output`.

    Everything goes to a temporary folder beside it first, so an interrupted export leaves
    either the old bundle or none.

    Raises:
        EdgewfError: `output` exists and is no bundle, or is one and `overwrite` is off.
    """
    check_output(output, overwrite=overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        staging.chmod(0o755)
        written = _write_graphs(staging, graphs)
        np.save(staging / AFFINE, graphs.affine)
        names = [*written, WEIGHTS, AFFINE]
        files = {name: file_record(staging / name) for name in names}
        manifest.with_files(files).write(staging)
        if calibration is not None:
            calibration.write(staging)
        if output.exists():
            _swap(staging, output)
        else:
            os.replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder that `write_bundle` would refuse, before the work of an export.

    Raises:
        EdgewfError: `output` exists and is no bundle, or is one and `overwrite` is off.
    """
    if output.exists() and not _replaceable(output):
        raise EdgewfError(f"{output} exists and is not a bundle: name another --output")
    if output.exists() and not overwrite and any(output.iterdir()):
        raise EdgewfError(f"{output} already holds a bundle: name another --output or add --force")


def _swap(staging: Path, output: Path) -> None:
    """Put `staging` in the place of `output`, which comes back if that fails."""
    retired = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        os.replace(output, retired / "old")
        try:
            os.replace(staging, output)
        except BaseException:
            os.replace(retired / "old", output)
            raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _replaceable(output: Path) -> bool:
    return output.is_dir() and (not any(output.iterdir()) or (output / "manifest.json").is_file())


def _write_graphs(folder: Path, graphs: Graphs) -> list[str]:
    """Return the files' names."""
    ordered = (graphs.infer, graphs.probe, graphs.forward, graphs.backward)
    models = dict(zip(GRAPHS, ordered, strict=True))
    if graphs.classifier is not None:
        models[CLASSIFIER] = graphs.classifier
    shared: dict[bytes, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for model in models.values():
            for value in model.graph.initializers.values():
                _move_to_file(value, file, shared)
    for name, model in models.items():
        ir.save(model, folder / name)
    return list(models)


def _move_to_file(value: ir.Value, file: BinaryIO, shared: dict[bytes, tuple[int, int]]) -> None:
    """Append the tensor unless an equal one is there, and point the initializer to it."""
    tensor = value.const_value
    assert tensor is not None
    data = tensor.tobytes()
    if len(data) < _SHARED_BYTES or not tensor.dtype.is_floating_point():
        return
    key = hashlib.sha256(data).digest()
    if key not in shared:
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        shared[key] = (file.tell(), len(data))
        file.write(data)
    offset, length = shared[key]
    value.const_value = ir.ExternalTensor(
        WEIGHTS,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=str(value.name),
        base_dir=Path(file.name).parent,
    )
