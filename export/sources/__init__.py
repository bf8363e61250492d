"""Where models come from. Each source names a model and what its users must feed it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.labels import Label
from edgewf.preprocessing import Preprocessing


@dataclass(frozen=True)
class Source:
    """A classifier ready for differentiation.

    Attributes:
        name: what the user called it.
        origin: where the graph and the weights came from, in words.
        graph: canonical model, `images` float32 [batch, 3, S, S] -> `logits` [batch, K].
        preprocessing: what the model's training pipeline does to a picture.
        labels: K class names where the source knows them.
        fingerprint: hash of the weights, independent of how they were exported.
    """

    name: str
    origin: str
    graph: ir.Model
    preprocessing: Preprocessing
    labels: list[Label] | None
    fingerprint: str


def imagenet_convention(image_size: int) -> Preprocessing:
    """Return what most ImageNet models were trained with, for sources that do not say."""
    return Preprocessing(image_size=image_size, resize=round(image_size / 0.875))


def check_classes(graph: ir.Model, name: str, classes: int | None) -> None:
    """Refuse a graph whose number of outputs is not the one asked for."""
    shape = graph.graph.outputs[0].shape
    assert shape is not None
    if classes not in (None, shape[1]):
        raise EdgewfError(
            f"{name}: the model has {shape[1]} classes, not --classes {classes}: "
            "leave the option out"
        )
