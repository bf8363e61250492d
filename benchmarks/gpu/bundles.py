"""What the GPU check runs, made on a machine with PyTorch and carried to the one with the GPU.

    python -m benchmarks.gpu.bundles FOLDER

EfficientNet-Lite0 has trained weights, the others random ones. Beside the bundles lie a few
photographs, for the device needs no scikit-image.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from benchmarks.gpu.stages import BUNDLES, FP16, PICTURES
from edgewf.commands.explaining import ExplainingCommand


@click.command(cls=ExplainingCommand)
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Export each bundle into FOLDER; one that is there stays."""
    try:
        from benchmarks.graphs.networks import bundle
    except ImportError as error:
        click.echo(json.dumps({"skipped": f"no models can be made here ({error})"}))
        return
    from benchmarks.pictures import photographs

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PICTURES).exists():
        np.savez_compressed(folder / PICTURES, *photographs())
    for name in BUNDLES:
        if not (folder / name / "manifest.json").exists():
            precision = "fp16" if name.endswith(FP16) else "fp32"
            bundle(name.removesuffix(FP16), folder / name, precision=precision)
        click.echo(json.dumps({"bundle": name}))


if __name__ == "__main__":
    main()
