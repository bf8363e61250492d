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

from benchmarks.gpu.stages import MODELS

PICTURES = "photographs.npz"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Export each model into FOLDER; one that is there stays."""
    from benchmarks.graphs.networks import bundle
    from benchmarks.pictures import photographs

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PICTURES).exists():
        np.savez_compressed(folder / PICTURES, *photographs())
    for name in MODELS:
        if not (folder / name / "manifest.json").exists():
            bundle(name, folder / name)
        click.echo(json.dumps({"bundle": name}))


if __name__ == "__main__":
    main()
