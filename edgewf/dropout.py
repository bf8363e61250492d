"""Dropout inference: what the network says where some of its last features are left out."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort

from edgewf.bundle import CLASSIFIER, Bundle
from edgewf.engines import Float32
from edgewf.errors import EdgewfError

INFERENCES = 10
"""M, of every frame."""


def rate(classes: int) -> float:
    """Return the share of the features that is left out.

    Those of the code of AETTA (Lee et al., CVPR 2024): 0.4 for CIFAR-10, 0.3 for CIFAR-100 and
    the 200 classes of ImageNet-R, 0.2 for ImageNet.
    """
    return 0.4 if classes <= 10 else 0.3 if classes <= 200 else 0.2


class DropoutInference:
    """Runs a bundle's last linear layer on embeddings of which features are dropped.

    The dropout lies before that layer, as in AETTA's networks, so the rest of the network runs
    once for all inferences. ONNX Runtime does it on the CPU, whichever engine runs the burst.

    Args:
        bundle: exported with a classifier graph.

    Raises:
        EdgewfError: the bundle has none.
    """

    def __init__(self, bundle: Bundle) -> None:
        if CLASSIFIER not in bundle.manifest.files:
            raise EdgewfError(
                f"{bundle.folder} has no {CLASSIFIER}, which dropout inferences need: export the "
                "model again with this version; a network whose logits come from several layers "
                "has none"
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            os.fspath(bundle.path(CLASSIFIER)), options, providers=["CPUExecutionProvider"]
        )
        self._rate = rate(bundle.manifest.classes)

    @classmethod
    def of(cls, bundle: Bundle) -> DropoutInference | None:
        """Return the bundle's, None if it has no classifier graph."""
        return cls(bundle) if CLASSIFIER in bundle.manifest.files else None

    def __call__(self, embedding: Float32, seed: int) -> Float32:
        """Return logits [M, N, K] of embeddings [N, D], each feature dropped independently."""
        rng = np.random.default_rng([seed, INFERENCES])
        kept = np.float32(1 / (1 - self._rate))
        found = []
        for _ in range(INFERENCES):
            mask = rng.random(embedding.shape, np.float32) >= self._rate
            found.append(self._session.run(["logits"], {"embedding": embedding * mask * kept})[0])
        return np.stack(found)
