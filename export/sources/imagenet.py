"""The 1,000 ImageNet classes in the order of a network's outputs."""

from __future__ import annotations

from importlib import resources

from edgewf.labels import Label, read_labels


def imagenet_labels() -> list[Label]:
    """Return wnid and name of each class (Russakovsky et al., IJCV 2015)."""
    with resources.as_file(resources.files("edgewf") / "data" / "imagenet1k.tsv") as path:
        return read_labels(path)
