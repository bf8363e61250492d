"""Which source a model name belongs to."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from edgewf.errors import EdgewfError
from edgewf.export.sources import (
    Source,
    efficientnet_lite,
    model_file,
    module_callable,
    onnx_file,
    timm_models,
    torchvision_models,
)


def load_source(
    model: str | None = None,
    *,
    onnx: str | None = None,
    weights: str = "default",
    classes: int | None = None,
    image_size: int | None = None,
    head: str | None = None,
    **preprocessing: Any,
) -> Source:
    """Find and build the model.

    Args:
        model: "efficientnet_lite0" (or 1, 2), a torchvision name, "timm/NAME", "module:callable",
            or the path of a TorchScript archive, a `torch.export` program or an ONNX model.
        onnx: path of an ONNX file, instead of `model`.
        weights: "default", "none" or a checkpoint's path.
        classes: number of classes.
        image_size: side of the input in pixels; None takes the model's own.
        head: the output that holds the logits, for files and callables with several.
        **preprocessing: resize, interpolation, mean, std where they differ from what the source
            knows or assumes; None changes nothing. See `Preprocessing`.

    Raises:
        EdgewfError: unknown name, weights that do not fit or cannot be had, a graph that edgewf
            cannot monitor.
    """
    source = _load(model, onnx, weights, classes, image_size, head)
    changes = {key: value for key, value in preprocessing.items() if value is not None}
    return replace(source, preprocessing=replace(source.preprocessing, **changes))


def _load(
    model: str | None,
    onnx: str | None,
    weights: str,
    classes: int | None,
    image_size: int | None,
    head: str | None,
) -> Source:
    if onnx is not None:
        return onnx_file.load(onnx, classes, image_size, head)
    if model is None:
        raise EdgewfError("name a model with --model NAME or a file with --onnx FILE")
    if model_file.is_file_name(model):
        return model_file.load(model, weights, classes, image_size, head)
    if ":" in model:
        return module_callable.load(model, weights, classes, image_size, head)
    if head is not None:
        raise EdgewfError(f"{model} exports its main head: leave --head {head} out")
    if model in efficientnet_lite.NAMES:
        return efficientnet_lite.load(model, weights, classes, image_size)
    names = torchvision_models.names()
    if model in names:
        return torchvision_models.load(model, weights, classes, image_size)
    timm_names = timm_models.names(required=model.startswith(timm_models.PREFIX))
    if model in timm_names:
        return timm_models.load(model, weights, classes, image_size)
    close = _close_matches(model, [*efficientnet_lite.NAMES, *names, *timm_names])
    raise EdgewfError(
        f"unknown model {model!r}"
        + (f"; did you mean {', '.join(close)}?" if close else "")
        + " Known: efficientnet_lite0 to 2, torchvision's classification models, timm/NAME, "
        "module:callable, or the path of a TorchScript, torch.export (.pt2) or ONNX file"
    )


def _close_matches(model: str, names: list[str]) -> list[str]:
    """Return up to three names like it, whether or not the collection's prefix was given."""
    bare = {name.removeprefix(timm_models.PREFIX): name for name in reversed(names)}
    close = difflib.get_close_matches(model.removeprefix(timm_models.PREFIX), bare, n=3)
    return [bare[name] for name in close]
