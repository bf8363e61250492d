"""Labelled images of a data set: files in class folders, or members of tar archives."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgewf.errors import EdgewfError
from edgewf.images import image_files, labelled_images, read_image
from edgewf.labels import Label
from edgewf.preprocessing import Image, Preprocessing

MAPPING = "classes.json"


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        classes: indices of the outputs that are right; several where a data set's class covers
            several of ImageNet's.
        path: of the image, or of the archive that holds it.
        place: first byte and length in the archive; None for a file of its own.
        trim: pixels to cut off on every side.
    """

    classes: frozenset[int]
    path: Path
    place: tuple[int, int] | None = None
    trim: int = 0

    def read(self) -> Image:
        """Return uint8 [H, W, 3] RGB.

        Raises:
            EdgewfError: naming the file.
        """
        frame = read_image(self.path) if self.place is None else _member(self.path, *self.place)
        return frame[self.trim : -self.trim, self.trim : -self.trim] if self.trim else frame


Reader = Callable[[Path, Sequence[Label]], list[Sample]]
"""From a folder and the network's classes to its images."""


def class_folders(folder: Path, labels: Sequence[Label]) -> list[Sample]:
    """Read `<wnid>/*`, or `<index>/*` as ImageNet-V2 has it; `classes.json` beside them overrides.

    Raises:
        EdgewfError: a folder that names no class, or no images.
    """
    if (folder / MAPPING).is_file():
        return mapped_folders(folder, labels)
    return [Sample(frozenset({k}), path) for path, k in labelled_images(folder, labels)]


def mapped_folders(folder: Path, labels: Sequence[Label], trim: int = 0) -> list[Sample]:
    """Read folders whose classes `classes.json` gives.

    It is an object from folder names to a wnid or class index, a list of them, or null for
    folders to leave out. Folders that it lacks are an error.
    """
    path = folder / MAPPING
    return _mapped(folder, _mapping(path, labels), trim, path)


def domain_folders(folder: Path, labels: Sequence[Label]) -> list[Sample]:
    """Read a domain of ImageNet-D: its own folders are wnids, DomainNet's need `classes.json`.

    The mapping may lie in the domain's folder or beside it, for all domains.
    """
    beside = folder.parent / MAPPING
    if beside.is_file() and not (folder / MAPPING).is_file():
        return _mapped(folder, _mapping(beside, labels), 0, beside)
    return class_folders(folder, labels)


def backgrounds(folder: Path, labels: Sequence[Label]) -> list[Sample]:
    """Read `val/<nn_name>/*` of the Backgrounds Challenge (Xiao et al., ICLR 2021).

    `in_to_in9.json` of the authors' repository, in the folder above the variants, says which of
    its nine classes each output belongs to (-1 for none); a folder's class is the number before
    its name.
    """
    path = folder.parent / "in_to_in9.json"
    record = _json(path, "the authors' file of that name")
    coarse: dict[int, set[int]] = {}
    try:
        for output, nine in record.items():
            coarse.setdefault(int(nine), set()).add(int(output))
        top = max(int(output) for output in record)
    except (TypeError, ValueError) as error:
        raise EdgewfError(f"{path}: {error}; give the authors' in_to_in9.json") from error
    if top >= len(labels):
        raise EdgewfError(f"{path}: names output {top}, but the network has {len(labels)}")
    inside = folder / "val" if (folder / "val").is_dir() else folder
    known = {}
    for sub in _folders(inside):
        number = sub.name.partition("_")[0]
        if not (number.isascii() and number.isdigit() and int(number) in coarse):
            raise EdgewfError(
                f"{sub}: expected a folder like 00_dog, whose number {path.name} knows"
            )
        known[sub.name] = frozenset(coarse[int(number)])
    return _mapped(inside, known, 0, path)


def objectnet(folder: Path, labels: Sequence[Label]) -> list[Sample]:
    """Read `images/<folder>/*` of ObjectNet (Barbu et al., NeurIPS 2019).

    Classes come from the data set's own `mappings/`; those that ImageNet lacks are left out, and
    so is the red border of two pixels. `images/classes.json` overrides the mappings.
    """
    inside = folder / "images" if (folder / "images").is_dir() else folder
    if (inside / MAPPING).is_file():
        return mapped_folders(inside, labels, trim=2)
    where = folder / "mappings"
    of_folder = _json(where / "folder_to_objectnet_label.json", "ObjectNet's own file")
    names = _json(where / "objectnet_to_imagenet_1k.json", "ObjectNet's own file")
    outputs = _json(where / "pytorch_to_imagenet_2012_id.json", "ObjectNet's own file")
    text = where / "imagenet_to_label_2012_v2"
    try:
        lines = text.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EdgewfError(f"cannot read {text}: {error.strerror}: copy ObjectNet's own") from error
    try:
        output_of = {int(line): int(k) for k, line in outputs.items()}
        index = {line.strip(): output_of[i] for i, line in enumerate(lines) if i in output_of}
        known: dict[str, frozenset[int]] = {}
        for sub, name in of_folder.items():
            found = names.get(name)
            wanted = [] if found is None else found.split("; ")
            known[sub] = frozenset(index[x] for x in wanted)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EdgewfError(
            f"{where}: its files do not fit together ({error}): copy ObjectNet's own again"
        ) from error
    if max((k for ks in known.values() for k in ks), default=0) >= len(labels):
        raise EdgewfError(f"{where}: names outputs beyond the network's {len(labels)}")
    return _mapped(inside, known, 2, where)


def shards(folder: Path, labels: Sequence[Label]) -> list[Sample]:
    """Read `serial_*.tar` of CCC: `KEY.input.jpg` and its class index `KEY.output.cls`.

    Raises:
        EdgewfError: no archive, a damaged one, an image without a class or one out of range.
    """
    archives = sorted(folder.glob("*.tar"))
    if not archives:
        raise EdgewfError(f"{folder}: no serial_*.tar in it: copy the stream's archives there")
    samples = []
    for archive in archives:
        places: dict[str, tuple[int, int]] = {}
        classes: dict[str, int] = {}
        try:
            with tarfile.open(archive) as file:
                for member in file:
                    key, _, kind = member.name.partition(".")
                    if kind == "input.jpg":
                        places[key] = (member.offset_data, member.size)
                    elif kind == "output.cls":
                        content = file.extractfile(member)
                        classes[key] = int(content.read()) if content else -1
        except (tarfile.TarError, OSError, ValueError) as error:
            raise EdgewfError(f"{archive}: damaged ({error}): copy it again") from error
        for key, place in places.items():
            if not 0 <= classes.get(key, -1) < len(labels):
                raise EdgewfError(
                    f"{archive}: {key}.input.jpg has class {classes.get(key)}, expected "
                    f"{key}.output.cls with 0 to {len(labels) - 1}"
                )
            samples.append(Sample(frozenset({classes[key]}), archive, place))
    if not samples:
        raise EdgewfError(f"{folder}: its archives hold no KEY.input.jpg")
    return samples


def load(samples: Iterable[Sample], preprocessing: Preprocessing, *, stored_crop: bool) -> Image:
    """Read images as the graphs take them: uint8 [N, S, S, 3].

    Args:
        samples: N of them.
        preprocessing: of the network.
        stored_crop: the data set holds the crops themselves, which are not enlarged first.
    """
    if stored_crop:
        preprocessing = replace(preprocessing, resize=preprocessing.image_size)
    return np.stack([preprocessing(sample.read()) for sample in samples])


def indices(labels: Sequence[Label]) -> dict[str, int]:
    """Return the class index by wnid, and by the index itself as text."""
    found = {str(k): k for k in range(len(labels))}
    found.update({label.id: k for k, label in enumerate(labels) if label.id is not None})
    return found


def _mapping(path: Path, labels: Sequence[Label]) -> dict[str, frozenset[int]]:
    """Read a `classes.json`, see `mapped_folders`."""
    index = indices(labels)
    known = {}
    for name, value in _json(path, "an object from folder names to wnids").items():
        wanted = [] if value is None else value if isinstance(value, list) else [value]
        try:
            known[name] = frozenset(index[str(x)] for x in wanted)
        except KeyError as error:
            raise EdgewfError(
                f"{path}: {name!r} is said to be {error}, which is no wnid or index of the "
                f"network's {len(labels)} classes: correct the entry"
            ) from None
    return known


def _mapped(
    folder: Path, known: dict[str, frozenset[int]], trim: int, source: Path
) -> list[Sample]:
    present = _folders(folder)
    strange = [sub.name for sub in present if sub.name not in known]
    if strange:
        raise EdgewfError(
            f"{folder}: {source.name} says nothing of {', '.join(strange[:10])}: add them to "
            f"{source}, with null to leave one out"
        )
    samples = [
        Sample(known[sub.name], path, trim=trim)
        for sub in present
        if known[sub.name]
        for path in image_files(sub)
    ]
    if not samples:
        raise EdgewfError(f"{folder}: no images of the network's classes in it")
    return samples


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise EdgewfError(f"{folder} does not exist: expected folders of images, one a class")
    return sorted(x for x in folder.iterdir() if x.is_dir() and not x.name.startswith("."))


def _json(path: Path, expected: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EdgewfError(f"{path} is missing: put {expected} there") from None
    except (OSError, ValueError) as error:
        raise EdgewfError(f"cannot read {path}: {error}; put {expected} there") from error
    if not isinstance(record, dict):
        raise EdgewfError(f"{path}: not an object: put {expected} there")
    return record


def _member(archive: Path, start: int, length: int) -> Image:
    try:
        with archive.open("rb") as file:
            file.seek(start)
            data = file.read(length)
    except OSError as error:
        raise EdgewfError(f"cannot read {archive}: {error.strerror}") from error
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if pixels is None:
        raise EdgewfError(f"{archive}: the image at byte {start} is damaged: copy it again")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
