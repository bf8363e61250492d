"""How much the deployed network's predictions depend on each affine parameter.

The diagonal of the Fisher information, as EATA (Niu et al., ICML 2022, equation 9 and the authors'
code) estimates it: squared gradients of the cross-entropy towards the network's own labels on
clean images, one gradient a batch, averaged over batches.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from edgewf.bundle import FISHER, Bundle, write_bytes
from edgewf.engines import Engine, Float32, Images
from edgewf.engines.host import HostEngine
from edgewf.kernels import reference
from edgewf.settings import BurstSettings


def estimate_fisher(
    engine: HostEngine, windows: Iterable[Images], settings: BurstSettings
) -> Float32:
    """Return the diagonal of the Fisher information, float32 [P].

    Args:
        engine: of the bundle; its burst is started again.
        windows: clean images, uint8 [N, S, S, 3] each, N a multiple of the batch size.
        settings: of the bursts; statistics are taken as theirs.
    """
    loss_scale = engine.bundle.manifest.loss_scale
    engine.reset(replace(settings, objective="tent"))  # eata's reset asks for what is made here

    def towards_own_label(logits: Float32) -> Float32:
        p, _, _ = reference.softmax_entropy(logits)
        p[np.arange(len(p)), reference.labels(logits)] -= 1
        scaled: Float32 = (p * (loss_scale / len(p))).astype(np.float32)
        return scaled

    total = np.zeros(len(engine.affine))
    batches = 0
    for images in windows:
        for start in range(0, len(images), settings.batch_size):
            part = images[start : start + settings.batch_size]
            gradient = engine.gradient(part, towards_own_label).astype(np.float64) / loss_scale
            total += gradient**2
            batches += 1
    return (total / max(batches, 1)).astype(np.float32)


def keep_fisher(
    bundle: Bundle, engine: Engine, windows: Iterable[Images], settings: BurstSettings
) -> None:
    """Estimate it and write it into the bundle.

    Args:
        bundle: gets `fisher.npy`.
        engine: of the bundle; one that keeps its gradients on a GPU is replaced by ONNX Runtime's.
        windows, settings: see `estimate_fisher`.
    """
    if not isinstance(engine, HostEngine):
        from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU

        engine = OnnxRuntimeCPU(bundle)
    file = io.BytesIO()
    np.save(file, estimate_fisher(engine, windows, settings), allow_pickle=False)
    write_bytes(bundle.path(FISHER), file.getvalue())


def fisher_hash(bundle: Bundle) -> str:
    """Return the SHA-256 of the bundle's Fisher information, which its calibration records.

    Raises:
        EdgewfError: there is none, or it is damaged.
    """
    return hashlib.sha256(bundle.fisher().tobytes()).hexdigest()
