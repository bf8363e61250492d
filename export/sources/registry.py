"""Which source a model name belongs to."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from edgewf.errors import EdgewfError
from edgewf.export.sources import (
    Source,
    efficientnet_lite,
    module_callable,
    onnx_file,
    torchvision_models,
)


def load_source(
    model: str | None = None,
    *,
    onnx: str | None = None,
    weights: str = "default",
    classes: int | None = None,
    image_size: int | None = None,
    **preprocessing: Any,
) -> Source:
    """Find and build the model.

    Args:
        model: "efficientnet_lite0", a torchvision name or "module:callable".
        onnx: path of an ONNX file, instead of `model`.
        weights: "default", "none" or a checkpoint's path.
        classes: number of classes.
        image_size: side of the input in pixels; None takes the model's own.
        **preprocessing: resize, interpolation, mean, std where they differ from what the source
            knows or assumes; None changes nothing. See `Preprocessing`.

    Raises:
        EdgewfError: unknown name, weights that do not fit or cannot be had, a graph that edgewf
            cannot monitor.
    """
    source = _load(model, onnx, weights, classes, image_size)
    changes = {key: value for key, value in preprocessing.items() if value is not None}
    return replace(source, preprocessing=replace(source.preprocessing, **changes))


def _load(
    model: str | None,
    onnx: str | None,
    weights: str,
    classes: int | None,
    image_size: int | None,
) -> Source:
    if onnx is not None:
        return onnx_file.load(onnx, classes, image_size)
    if model is None:
        raise EdgewfError("name a model with --model NAME or a file with --onnx FILE")
    if ":" in model:
        return module_callable.load(model, weights, classes, image_size)
    if model in efficientnet_lite.NAMES:
        return efficientnet_lite.load(model, weights, classes, image_size)
    names = torchvision_models.names()
    if model in names:
        return torchvision_models.load(model, weights, classes, image_size)
    close = difflib.get_close_matches(model, [*efficientnet_lite.NAMES, *names], n=3)
    raise EdgewfError(
        f"unknown model {model!r}"
        + (f"; did you mean {', '.join(close)}?" if close else "")
        + " Known: efficientnet_lite0, torchvision's classification models, module:callable"
    )
