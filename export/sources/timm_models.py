"""Classifiers that timm knows by name, written `timm/NAME` or `timm/NAME.TAG`."""

from __future__ import annotations

import math
from typing import Any

from edgewf.errors import EdgewfError
from edgewf.export.checkpoint import load_weights
from edgewf.export.sources import Source
from edgewf.export.sources.imagenet import imagenet_labels
from edgewf.export.sources.torchvision_models import import_torchvision
from edgewf.export.torch_module import fingerprint, to_graph
from edgewf.preprocessing import Preprocessing

PREFIX = "timm/"


def names(*, required: bool) -> list[str]:
    """Return the installed timm's architectures and sets of weights, with the prefix.

    Args:
        required: timm must be there; otherwise a missing one knows no names.

    Raises:
        EdgewfError: it is required and missing.
    """
    try:
        timm = _import_timm()
    except EdgewfError:
        if required:
            raise
        return []
    known = [*timm.list_models(), *timm.list_pretrained()]
    return [PREFIX + name for name in known]


def load(model: str, weights: str, classes: int | None, image_size: int | None) -> Source:
    """Build the network with its own preprocessing.

    Args:
        model: "timm/NAME", or "timm/NAME.TAG" for one of several sets of published weights.
        weights: "default" (published), "none" (random) or a checkpoint's path.
        classes: number of classes, None for the model's own.
        image_size: side of the input in pixels, None for the one it was trained with.

    Raises:
        EdgewfError: timm is missing or refuses the arguments, the weights cannot be downloaded or
            do not fit; see also `to_graph`.
    """
    timm = _import_timm()
    name = model.removeprefix(PREFIX)
    entry = timm.get_pretrained_cfg(name)
    if weights == "default" and classes not in (None, entry.num_classes):
        raise EdgewfError(
            f"{model}: the published weights have {entry.num_classes} classes, not --classes "
            f"{classes}: name your own with --weights FILE"
        )
    if weights == "default" and not entry.has_weights:
        raise EdgewfError(
            f"{model}: no weights are published for it; name your own with --weights FILE, "
            "or export random weights with --weights none"
        )
    module = _build(timm, model, weights == "default", classes)
    origin = {"default": _address(entry), "none": "random weights"}.get(weights)
    if origin is None:
        origin = load_weights(module, weights, model)
    data = timm.data.resolve_model_data_config(module)
    size = image_size or data["input_size"][-1]
    count = classes or entry.num_classes
    return Source(
        name=name,
        origin=origin,
        graph=to_graph(module, model, size),
        preprocessing=Preprocessing(
            image_size=size,
            resize=math.floor(size / data["crop_pct"]),
            interpolation=data["interpolation"],
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
        ),
        labels=imagenet_labels() if count == 1000 else None,
        fingerprint=fingerprint(module.state_dict()),
    )


def _import_timm() -> Any:
    import_torchvision()  # timm needs it, and it may need help
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise EdgewfError(
            f"models named {PREFIX}... need timm ({error}): pip install 'edgewf[timm]'"
        ) from error
    return timm


def _build(timm: Any, model: str, pretrained: bool, classes: int | None) -> Any:
    arguments = {} if classes is None else {"num_classes": classes}
    name = model.removeprefix(PREFIX)
    if not pretrained:
        return timm.create_model(name, **arguments)
    try:
        return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # whatever the download's HTTP library raises
        reason = str(error).strip().partition("\n")[0]
        raise EdgewfError(
            f"{model}: the published weights could not be downloaded from "
            f"{_address(timm.get_pretrained_cfg(name))} ({type(error).__name__}: {reason}); "
            "fetch model.safetensors there on a machine with a network and pass it as "
            "--weights FILE, or export random weights with --weights none"
        ) from error


def _address(entry: Any) -> str:
    return f"https://huggingface.co/{entry.hf_hub_id}" if entry.hf_hub_id else str(entry.url)
