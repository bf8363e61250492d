"""Images on disk: reading them, listing them, and their classes by folder name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edgewf.errors import EdgewfError
from edgewf.labels import Label
from edgewf.preprocessing import Image

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)

_JPEG_START = b"\xff\xd8"
_JPEG_END = 0xD9
# Inside the compressed data of a JPEG, 0xFF is followed by 0 or a restart marker; anything else
# is the next segment (ITU-T T.81, B.1.1).
_JPEG_SEGMENT = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
_PNG_START = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | Path) -> Image:
    """Read an image file as uint8 [H, W, 3] RGB.

    Grey images get three equal channels, 16-bit ones keep their upper 8 bits, alpha is dropped,
    and the EXIF orientation is applied.

    Raises:
        EdgewfError: the file is missing, cut short or not an image; the message names it.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EdgewfError(f"cannot read image {path}: {error.strerror or error}") from error
    if not data:
        raise EdgewfError(f"{path} is an empty file: remove it or copy it again")
    # Some OpenCV versions fill the missing rows of a cut file with grey and only print a warning.
    if _is_cut_short(data):
        raise EdgewfError(f"{path} is cut short: remove it or copy it again")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise EdgewfError(f"{path} is damaged or not an image: remove it or copy it again")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def image_files(folder: str | Path) -> list[Path]:
    """Return the images in a folder and its sub-folders, sorted by path; hidden files are left out.

    Raises:
        EdgewfError: the folder is missing, or holds no image.
    """
    folder = Path(folder)
    files = _images_in(folder)
    if not files:
        raise EdgewfError(f"no images in {folder}: expected {_suffixes()} files")
    return files


def labelled_images(folder: str | Path, labels: Sequence[Label]) -> list[tuple[Path, int]]:
    """Return (path, class index) of every image in the class folders of `folder`.

    A class folder is named by the id of a class (for ImageNet the wnid), its index, or its name,
    where case, spaces, `_` and `-` make no difference; tried in this order. Sorted by folder name,
    then file name. Files beside the class folders are ignored.

    Raises:
        EdgewfError: the folder is missing or holds no images, a sub-folder matches no class, or
            it matches more than one.
    """
    folder = Path(folder)
    _require_folder(folder)
    class_folders = sorted(
        (f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")),
        key=lambda f: f.name,
    )
    by_id = {label.id: index for index, label in enumerate(labels) if label.id is not None}
    by_name: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        by_name.setdefault(_plain(label.name), []).append(index)
    classes = [
        (f, by_id[f.name] if f.name in by_id else _class_of(f, labels, by_name))
        for f in class_folders
    ]
    unmatched = [f.name for f, index in classes if index is None]
    if unmatched:
        more = f" and {len(unmatched) - 10} more" if len(unmatched) > 10 else ""
        raise EdgewfError(
            f"{folder}: no class for the folders {', '.join(unmatched[:10])}{more}; name each "
            f"folder by the {_accepted(labels)} of its class"
        )
    found = [(path, index) for f, index in classes if index is not None for path in _images_in(f)]
    if not found:
        raise EdgewfError(
            f"no labelled images in {folder}: expected one sub-folder per class, named by "
            f"{_accepted(labels)}, with {_suffixes()} files"
        )
    return found


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise EdgewfError(f"{folder} {what}: give a folder of images")


def _images_in(folder: Path) -> list[Path]:
    _require_folder(folder)
    files = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    return sorted(files, key=lambda path: path.relative_to(folder).parts)


def _class_of(folder: Path, labels: Sequence[Label], by_name: dict[str, list[int]]) -> int | None:
    """Return the class whose index or name the folder bears."""
    named = by_name.get(_plain(folder.name), [])
    if folder.name.isascii() and folder.name.isdigit() and int(folder.name) < len(labels):
        index = int(folder.name)
        if named and named != [index]:
            raise EdgewfError(
                f"{folder}: {folder.name} is the index of class {index} ({labels[index].name}) "
                f"and the name of class {named[0]}; give the classes names that are no numbers"
            )
        return index
    if len(named) > 1:
        raise EdgewfError(
            f"{folder}: classes {', '.join(map(str, named))} are all called "
            f"{labels[named[0]].name!r}; name the folder by the index or id of its class"
        )
    return named[0] if named else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _accepted(labels: Sequence[Label]) -> str:
    example = labels[-1]
    ids = "" if example.id is None else f"id ({example.id}), "
    return f"{ids}index (0 to {len(labels) - 1}) or name ({example.name})"


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _is_cut_short(data: bytes) -> bool:
    """Say whether a JPEG or PNG lacks its end; other formats are left to the decoder."""
    if data.startswith(_JPEG_START):
        return not _jpeg_ends(data)
    if data.startswith(_PNG_START):
        return not _png_ends(data)
    return False


def _jpeg_ends(data: bytes) -> bool:
    # Walking the segments, not searching for the end marker: an EXIF thumbnail has one too.
    position = 2
    while match := _JPEG_SEGMENT.search(data, position):
        if match[1][0] == _JPEG_END:
            return True
        length = int.from_bytes(data[match.end() : match.end() + 2], "big")
        position = match.end() + max(length, 2)
    return False


def _png_ends(data: bytes) -> bool:
    position = len(_PNG_START)
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False
