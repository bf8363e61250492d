"""The data sets, where they lie below the data root, and how each is read.

The paper judges Weighted Flips on 23 ImageNet-scale data sets. `SPLITS` has 23 from the families
that it draws on; `FITTED` are those that the published f was fitted to, which stay out of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.paper.samples import (
    Reader,
    backgrounds,
    class_folders,
    domain_folders,
    objectnet,
    shards,
)
from edgewf.errors import EdgewfError

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@dataclass(frozen=True)
class Cell:
    """A folder that is run on its own.

    Attributes:
        name: within the split, "" where it is the whole of it.
        folder: where.
    """

    name: str
    folder: Path


@dataclass(frozen=True)
class Split:
    """A data set.

    Attributes:
        name: as `--splits` spells it.
        title: in the table.
        folders: below the data root, the first that exists is used.
        reader: of a cell.
        corruptions: names of the corruptions it is divided into, () for none, None for all
            folders that have severities; each has folders 1 to 5.
        stored_crop: images are stored as the network takes them.
        tail: folder inside that the class folders may lie in.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    reader: Reader = class_folders
    corruptions: tuple[str, ...] | None = ()
    stored_crop: bool = False
    tail: str = ""

    def folder(self, root: Path) -> Path | None:
        """Return where it lies, None if nowhere."""
        return next((root / x for x in self.folders if (root / x).is_dir()), None)

    def cells(self, root: Path, severities: Sequence[int]) -> list[Cell]:
        """Return what is to be run, in order.

        Raises:
            EdgewfError: the folder is missing, or one of its parts.
        """
        folder = self.folder(root)
        if folder is None:
            raise EdgewfError(
                f"{self.name}: none of {', '.join(self.folders)} below {root}; docs/paper.md has "
                "the layouts"
            )
        if self.corruptions == ():
            inside = folder / self.tail
            return [Cell("", inside if self.tail and inside.is_dir() else folder)]
        places = _corruption_folders(folder)
        wanted = self.corruptions or tuple(sorted(set(places) - set(EXTRA_CORRUPTIONS)))
        missing = [name for name in wanted if name not in places]
        if missing or not wanted:
            raise EdgewfError(
                f"{folder}: no folder of {', '.join(missing) or 'any corruption'}: expected "
                "CORRUPTION/SEVERITY/CLASS/IMAGE, or one more folder around the corruptions"
            )
        cells = []
        for name in wanted:
            for severity in severities:
                cell = places[name] / str(severity)
                if not cell.is_dir():
                    raise EdgewfError(
                        f"{cell} is missing: copy it, or leave it out with --severities"
                    )
                cells.append(Cell(f"{name} {severity}", cell))
        return cells


def _corruption_folders(folder: Path) -> dict[str, Path]:
    """Find folders that have folders named by severities, here or one level down."""
    found: dict[str, Path] = {}
    for pattern in ("*", "*/*"):
        for path in sorted(folder.glob(pattern)):
            if any((path / str(s)).is_dir() for s in range(1, 6)):
                found.setdefault(path.name, path)
    return found


def _v2(name: str, title: str) -> Split:
    return Split(
        f"v2-{name}",
        f"ImageNet-V2 {title}",
        (f"imagenetv2-{name}-format-val", f"imagenetv2-{name}", f"imagenet-v2/{name}"),
    )


def _ccc(name: str, baseline: int) -> Split:
    return Split(
        f"ccc-{name}",
        f"CCC {name}",
        (f"ccc/baseline_{baseline}_transition+speed_1000_seed_43", f"ccc/{name}"),
        shards,
        stored_crop=True,
    )


def _domain(name: str) -> Split:
    return Split(f"d-{name}", f"ImageNet-D {name}", (f"imagenet-d/{name}",), domain_folders)


def _background(name: str) -> Split:
    return Split(
        f"bg-{name.replace('_', '-')}",
        f"Backgrounds {name.replace('_', ' ')}",
        (f"bg_challenge/{name}", f"backgrounds_challenge/{name}"),
        backgrounds,
        stored_crop=True,
    )


SPLITS = (
    _v2("matched-frequency", "matched frequency"),
    _v2("threshold0.7", "threshold 0.7"),
    _v2("top-images", "top images"),
    Split("c", "ImageNet-C", ("imagenet-c",), corruptions=CORRUPTIONS, stored_crop=True),
    Split("c-bar", "ImageNet-C-bar", ("imagenet-c-bar",), corruptions=None, stored_crop=True),
    Split("3dcc", "ImageNet-3DCC", ("imagenet-3dcc",), corruptions=None, stored_crop=True),
    _ccc("easy", 40),
    _ccc("medium", 20),
    _ccc("hard", 0),
    Split("r", "ImageNet-R", ("imagenet-r",)),
    Split("a", "ImageNet-A", ("imagenet-a",)),
    Split("sketch", "ImageNet-Sketch", ("imagenet-sketch", "sketch"), tail="sketch"),
    Split("stylized", "Stylized-ImageNet", ("imagenet-stylized", "stylized-imagenet"), tail="val"),
    *(_domain(x) for x in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")),
    Split("objectnet", "ObjectNet", ("objectnet-1.0", "objectnet"), objectnet),
    _background("mixed_rand"),
    _background("mixed_same"),
    _background("only_fg"),
)
FITTED = (
    Split("val", "ImageNet validation", ("imagenet-val", "imagenet/val")),
    Split(
        "c-extra",
        "ImageNet-C extra",
        ("imagenet-c-extra", "imagenet-c"),
        corruptions=EXTRA_CORRUPTIONS,
        stored_crop=True,
    ),
)


def chosen_splits(root: Path, names: Sequence[str]) -> list[Split]:
    """Return the splits of these names; with none, those that are there.

    Raises:
        EdgewfError: an unknown name, one that is not there, or nothing at all.
    """
    if not root.is_dir():
        raise EdgewfError(f"{root} does not exist: give the folder that holds the data sets")
    known = {split.name: split for split in (*SPLITS, *FITTED)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise EdgewfError(f"unknown splits {', '.join(unknown)}: use {', '.join(known)}")
    if names:
        return [known[name] for name in dict.fromkeys(names)]
    found = [split for split in known.values() if split.folder(root) is not None]
    # ImageNet-C is often copied without the extra corruptions, which share its folder.
    found = [x for x in found if x.name != "c-extra" or _has_extra(x, root)]
    if not found:
        places = ", ".join(split.folders[0] for split in known.values())
        raise EdgewfError(f"{root}: none of the data sets there; expected one of {places}")
    return found


def _has_extra(split: Split, root: Path) -> bool:
    folder = split.folder(root)
    return folder is not None and any(
        name in EXTRA_CORRUPTIONS for name in _corruption_folders(folder)
    )
