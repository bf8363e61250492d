"""An existing `.onnx` classifier whose BatchNormalization layers were not folded away."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes

from edgewf.errors import EdgewfError
from edgewf.export.canonical import canonicalize
from edgewf.export.layout import channels_first
from edgewf.export.sources import Source, check_classes, imagenet_convention

_OLDEST_OPSET = 11

# How to write a model again with its BatchNorm layers apart, by the exporter's name in the file.
_UNFOLD_TORCH = (
    "re-export with torch.onnx.export(..., training=TrainingMode.PRESERVE, "
    "do_constant_folding=False, dynamo=False) or (..., dynamo=True, optimize=False)"
)
_UNFOLD = {
    "pytorch": _UNFOLD_TORCH,
    "tf2onnx": "re-export as under 'Keras and TensorFlow' in edgewf's README",
}
_UNFOLD_ANY = "re-export without optimisation or BatchNorm fusion; with PyTorch, " + _UNFOLD_TORCH


def load(path: str, classes: int | None, image_size: int | None, head: str | None) -> Source:
    """Read and canonicalize the file.

    Args:
        path: the file; external data beside it is read too.
        classes: what the caller expects the model to have, if anything.
        image_size: pixels, for graphs that leave it open.
        head: name of the output to keep, where there are several.

    Raises:
        EdgewfError: no such file, unreadable, older than operator set 11, or its weights are not
            beside it; see also `canonicalize`.
    """
    file = Path(path)
    if not file.is_file():
        raise EdgewfError(f"{path}: no such file; --onnx takes an ONNX model")
    try:
        model = ir.external_data.load_to_model(ir.load(file))
        passes.RemoveInitializersFromInputsPass()(model)
        digest = _digest(model.graph)
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
    opset = model.graph.opset_imports.get("")
    if opset is not None and opset < _OLDEST_OPSET:
        raise EdgewfError(
            f"{path}: ONNX operator set {opset}, edgewf reads {_OLDEST_OPSET} and newer: "
            f"re-export the model with opset {_OLDEST_OPSET} or newer"
        )
    unfold = _UNFOLD.get(str(model.producer_name), _UNFOLD_ANY)
    graph = canonicalize(channels_first(model, path), path, image_size, head=head, unfold=unfold)
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
        fingerprint=digest,
    )


def _digest(graph: ir.Graph) -> str:
    digest = hashlib.sha256()
    for key in sorted(graph.initializers):
        tensor = graph.initializers[key].const_value
        if tensor is not None:
            digest.update(f"{key} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(tensor.tobytes())
    return digest.hexdigest()
