"""Where models come from. Each source names a model and what its users must feed it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

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
