"""Frames from a video file or a folder of images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from edgewf.errors import EdgewfError
from edgewf.images import image_files, labelled_images, read_image
from edgewf.labels import Label
from edgewf.preprocessing import Image
from edgewf.stream.frame import Frame, Source


class VideoSource(Source):
    """The frames of a video file, in order, none dropped. A damaged one ends at the damage.

    Raises:
        EdgewfError: the file is missing, or no frame of it can be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise EdgewfError(f"no such file: {path}")
        self.uri = str(path)
        self.live = False
        self._capture = cv2.VideoCapture(self.uri)
        # Decoding one frame shows what a container with an intact header hides.
        self._first = self._read()
        if self._first is None:
            self._capture.release()
            raise EdgewfError(
                f"{path} cannot be read as a video: check that it is complete, or convert it to "
                "MP4 with H.264"
            )
        # An estimate from the header: not positive where the container does not tell.
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frames_total = count if count > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        image, self._first = self._first, None
        while image is not None:
            yield Frame(image, index, time.time())
            index += 1
            image = self._read()

    def close(self) -> None:
        self._capture.release()

    def _read(self) -> Image | None:
        ok, pixels = self._capture.read()
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8) if ok else None


class FolderSource(Source):
    """The images of a folder.

    A flat folder is read in the order of the file names, as a recording. The order of sub-folders
    (classes, mostly) says nothing about time and would make windows of look-alikes, so images in
    sub-folders come shuffled: the same order for the same seed, with or without labels.

    Args:
        folder: images, or sub-folders of images.
        labels: classes of the model; frames then carry the class that their sub-folder names.
        seed: of the shuffled order.

    Raises:
        EdgewfError: the folder is missing or holds no images, or with labels, a sub-folder names
            no class. An image that cannot be read raises while the frames are taken.
    """

    def __init__(
        self, folder: str | Path, *, labels: Sequence[Label] | None = None, seed: int = 0
    ) -> None:
        folder = Path(folder)
        self.uri = str(folder)
        self.live = False
        self._images: list[tuple[Path, int | None]]
        if labels is None:
            self._images = [(path, None) for path in image_files(folder)]
        else:
            self._images = [(path, index) for path, index in labelled_images(folder, labels)]
        if any(path.parent != folder for path, _ in self._images):
            order = np.random.default_rng(seed).permutation(len(self._images))
            self._images = [self._images[i] for i in order]
        self.frames_total: int | None = len(self._images)

    def __iter__(self) -> Iterator[Frame]:
        for index, (path, label) in enumerate(self._images):
            yield Frame(read_image(path), index, time.time(), label)

    def close(self) -> None:
        pass
