"""The user's own network: `module:callable` names a function that returns an `nn.Module`."""

from __future__ import annotations

import importlib
import os
import sys

from edgewf.errors import EdgewfError
from edgewf.export.checkpoint import load_weights
from edgewf.export.sources import Source, check_classes, imagenet_convention
from edgewf.export.torch_module import fingerprint, to_graph


def load(
    name: str, weights: str, classes: int | None, image_size: int | None, head: str | None
) -> Source:
    """Import the module (the working directory counts), call the callable, export the result.

    Args:
        name: "package.module:callable"; the callable takes no arguments.
        weights: "default" and "none" keep what the callable returns, else a checkpoint's path.
        classes: what the caller expects the model to have, if anything.
        image_size: side of the input in pixels, None for 224.
        head: key or index of the logits, where the network returns several tensors.

    Raises:
        EdgewfError: the import or the call fails, or returns something else.
    """
    from torch import nn

    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        build = getattr(importlib.import_module(module_name), attribute)
        network = build()
    except Exception as error:
        raise EdgewfError(
            f"--model {name}: {type(error).__name__}: {error}; expected MODULE:CALLABLE, "
            "importable from the working directory or the environment, and callable without "
            "arguments"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(network, nn.Module):
        raise EdgewfError(
            f"--model {name}: returned a {type(network).__name__}, expected a torch.nn.Module"
        )
    origin = name
    if weights not in ("default", "none"):
        origin += f", {load_weights(network, weights, name)}"
    size = image_size or 224
    graph = to_graph(network, name, size, head)
    check_classes(graph, name, classes)
    return Source(
        name=attribute,
        origin=origin,
        graph=graph,
        preprocessing=imagenet_convention(size),
        labels=None,
        fingerprint=fingerprint(network.state_dict()),
    )
