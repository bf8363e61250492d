"""An existing `.onnx` classifier whose BatchNormalization layers were not folded away."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.canonical import canonicalize
from edgewf.export.sources import Source, check_classes, imagenet_convention


def load(path: str, classes: int | None, image_size: int | None) -> Source:
    """Read and canonicalize the file.

    Args:
        path: the file; external data beside it is read too.
        classes: what the caller expects the model to have, if anything.
        image_size: pixels, for graphs that leave it open.
    """
    file = Path(path)
    if not file.is_file():
        raise EdgewfError(f"{path}: no such file; --onnx takes an ONNX model")
    try:
        model = ir.external_data.load_to_model(ir.load(file))
        digest = hashlib.sha256()
        for key in sorted(model.graph.initializers):
            tensor = model.graph.initializers[key].const_value
            if tensor is not None:
                digest.update(f"{key} {tensor.dtype} {tensor.shape}\n".encode())
                digest.update(tensor.tobytes())
    except FileNotFoundError as error:
        raise EdgewfError(
            f"{path}: its external weights are missing ({error.filename}): "
            "copy them beside the model"
        ) from error
    except Exception as error:
        raise EdgewfError(
            f"{path}: not a readable ONNX model ({type(error).__name__}: {error}); "
            "it may be truncated: export it again"
        ) from error
    graph = canonicalize(model, path, image_size)
    check_classes(graph, path, classes)
    shape = graph.graph.inputs[0].shape
    assert shape is not None
    size = int(shape[2])  # type: ignore[arg-type]
    return Source(
        name=file.stem,
        origin=path,
        graph=graph,
        preprocessing=imagenet_convention(size),
        labels=None,
        fingerprint=digest.hexdigest(),
    )
