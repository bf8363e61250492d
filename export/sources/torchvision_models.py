"""Classifiers that torchvision knows by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from edgewf.errors import EdgewfError
from edgewf.export.checkpoint import load_weights
from edgewf.export.sources import Source
from edgewf.export.sources.imagenet import imagenet_labels
from edgewf.export.torch_module import fingerprint, to_graph
from edgewf.preprocessing import Preprocessing


@cache
def import_torchvision() -> Any:
    """Import torchvision, also where its compiled operators do not fit the installed torch.

    A torchvision built for CUDA cannot load its operators beside a CPU build of torch, and its
    import then fails for want of two detection operators that no classifier uses. Declaring
    their schemas first is enough.
    """
    try:
        import torch
    except ImportError as error:
        raise EdgewfError(f"torch is missing ({error}): pip install 'edgewf[export]'") from error
    try:
        import torchvision
    except ImportError as error:
        raise EdgewfError(
            f"torchvision is missing ({error}): pip install 'edgewf[export]'"
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import torchvision
    return torchvision


# A library's definitions live as long as the object.
_declared: list[Any] = []


def names() -> list[str]:
    """Return the classification models of the installed torchvision."""
    models = import_torchvision().models
    return [str(name) for name in models.list_models(module=models)]


# Heads that only training uses, by the names of their modules.
_AUXILIARY_HEADS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}


def load(name: str, weights: str, classes: int | None, image_size: int | None) -> Source:
    """Build the network; `weights` is "default" (published), "none" (random) or a path."""
    torchvision = import_torchvision()
    entry: Any = torchvision.models.get_model_weights(name).DEFAULT
    heads = _AUXILIARY_HEADS.get(name, ())
    arguments: dict[str, Any] = {}
    if heads:
        arguments["init_weights"] = weights == "none"
        if Path(weights).name == Path(entry.url).name:
            # The published weights want other colours than theirs is normalised to; both
            # constructors know when they download, not when the file is handed over.
            arguments["transform_input"] = True
    if weights == "default":
        if classes not in (None, len(entry.meta["categories"])):
            raise EdgewfError(
                f"{name}: the published weights have {len(entry.meta['categories'])} classes, "
                f"not --classes {classes}: name your own with --weights FILE"
            )
        arguments["weights"] = entry
    elif classes is not None:
        arguments["num_classes"] = classes
    try:
        module = torchvision.models.get_model(name, **arguments)
    except OSError as error:  # URLError is one
        raise EdgewfError(
            f"{name}: the published weights could not be downloaded from {entry.url} ({error}); "
            "fetch that file on a machine with a network and pass it as --weights FILE, "
            "or export random weights with --weights none"
        ) from error
    for head in heads:
        setattr(module, head, None)
    origin = {"default": entry.url, "none": "random weights"}.get(weights)
    if origin is None:
        origin = load_weights(module, weights, name, unused=heads)
    transforms = entry.transforms()
    size = image_size or transforms.crop_size[0]
    return Source(
        name=name,
        origin=origin,
        graph=to_graph(module, name, size),
        preprocessing=Preprocessing(
            image_size=size,
            resize=round(size * transforms.resize_size[0] / transforms.crop_size[0]),
            interpolation=transforms.interpolation.value,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        ),
        labels=imagenet_labels() if classes in (None, 1000) else None,
        fingerprint=fingerprint(module.state_dict()),
    )
