"""`edgewf export`: from a source to a bundle on disk."""

from __future__ import annotations

from pathlib import Path

from edgewf import __version__
from edgewf.bundle import Bundle, Manifest
from edgewf.errors import EdgewfError
from edgewf.export.assemble import assemble
from edgewf.export.shipped import shipped_calibration
from edgewf.export.sources import Source
from edgewf.export.storage import write_bundle
from edgewf.labels import Label
from edgewf.settings import BurstSettings

# Of fp16 bundles.
LOSS_SCALE = 256.0


def export_bundle(
    source: Source,
    output: Path,
    *,
    labels: list[Label] | None = None,
    precision: str = "fp32",
    low_memory: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Differentiate the source's graph, write the bundle, and read it back checked.

    Args:
        source: see `edgewf.export.sources.registry.load_source`.
        output: folder to write.
        labels: class names, instead of the source's own.
        precision: "fp32", or "fp16" for mixed graphs.
        low_memory: keep fewer residuals and compute more again, see `differentiate`.
        overwrite: replace a bundle that is already there.

    Raises:
        EdgewfError: as many labels as classes are needed; see also `differentiate` and
            `write_bundle`.
    """
    logits = source.graph.graph.outputs[0].shape
    assert logits is not None
    classes = int(logits[1])  # type: ignore[arg-type]
    names = labels if labels is not None else source.labels
    if names is not None and len(names) != classes:
        raise EdgewfError(
            f"{len(names)} labels for the {classes} classes of {source.name}: "
            "give --labels a file with one class a line, in the order of the outputs"
        )
    graphs = assemble(
        source.graph,
        source.preprocessing,
        source.name,
        precision=precision,
        low_memory=low_memory,
    )
    manifest = Manifest(
        model=source.name,
        origin=source.origin,
        fingerprint=source.fingerprint,
        classes=classes,
        parameters=len(graphs.affine),
        layers=tuple(graphs.layers),
        preprocessing=source.preprocessing,
        labels=None if names is None else tuple(names),
        burst=BurstSettings.default(classes),
        edgewf_version=__version__,
        precision=precision,
        loss_scale=LOSS_SCALE if precision == "fp16" else 1.0,
        residual_bytes=graphs.residual_bytes,
        multiply_adds=graphs.multiply_adds,
        recomputed=graphs.recomputed,
    )
    calibration = shipped_calibration(manifest)
    write_bundle(output, graphs, manifest, calibration, overwrite=overwrite)
    return Bundle.load(output)
