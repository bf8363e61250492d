"""The user's own network: `module:callable` names a function that returns an `nn.Module`."""

from __future__ import annotations

import importlib
import os
import sys

from edgewf.errors import EdgewfError
from edgewf.export.sources import Source
from edgewf.export.torch_module import fingerprint, load_weights, to_graph
from edgewf.preprocessing import Preprocessing


def load(name: str, weights: str, preprocessing: Preprocessing | None) -> Source:
    """Import the module (the working directory counts), call the callable, export the result.

    Args:
        name: "package.module:callable"; the callable takes no arguments.
        weights: "default" and "none" keep what the callable returns, else a checkpoint's path.
        preprocessing: None takes the ImageNet convention at 224 pixels.
    """
    from torch import nn

    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        build = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise EdgewfError(
            f"--model {name}: {error}; expected MODULE:CALLABLE, importable from the working "
            "directory or the environment"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    network = build()
    if not isinstance(network, nn.Module):
        raise EdgewfError(
            f"--model {name}: returned a {type(network).__name__}, expected a torch.nn.Module"
        )
    if weights not in ("default", "none"):
        load_weights(network, weights, name)
    preprocessing = preprocessing or Preprocessing(image_size=224, resize=256)
    return Source(
        name=attribute,
        origin=name if weights in ("default", "none") else f"{name}, {weights}",
        graph=to_graph(network, name, preprocessing.image_size),
        preprocessing=preprocessing,
        labels=None,
        fingerprint=fingerprint(network.state_dict()),
    )
