"""From a correlated stream to a window of frames that differ."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.preprocessing import Image
from edgewf.stream.similarity import MIN_DIFFERENCE, Thumbnail, differences, thumbnail

RECENT = 256


@dataclass(frozen=True)
class Window:
    """The frames of one estimate.

    Attributes:
        images: uint8 [N, S, S, 3] RGB, in the order they came.
        labels: int64 [N] class indices; None unless every frame had one.
    """

    images: Image
    labels: NDArray[np.int64] | None


class WindowSampler:
    """Collects frames for a window and leaves out near-duplicates.

    Batch statistics need frames that differ. Two frames are near-duplicates when grey 16 by 16
    thumbnails of them differ by less than `min_difference` on average. A frame is compared with
    the last 256 that this window kept; a new window starts without memory, so a scene that returns
    may return. The same frames in the same order give the same windows.

    Args:
        size: frames in a window.
        stride: look at every stride-th frame only.
        min_difference: grey levels (0 to 255); 0 keeps every frame.

    Attributes:
        seen: frames offered so far.
        dropped: near-duplicates among them (frames passed over by the stride do not count).
    """

    def __init__(self, size: int, stride: int = 1, min_difference: float = MIN_DIFFERENCE) -> None:
        if size < 1 or stride < 1 or not min_difference >= 0:  # also refuses nan
            raise EdgewfError(
                f"window size {size}, stride {stride}, minimum difference {min_difference}: "
                "size and stride must be at least 1, the difference at least 0"
            )
        self._size = size
        self._stride = stride
        self._min_difference = min_difference
        self._crops: list[Image] = []
        self._labels: list[int | None] = []
        self._recent: deque[Thumbnail] = deque(maxlen=RECENT)
        self.seen = 0
        self.dropped = 0

    @property
    def filled(self) -> int:
        """Frames in the window so far."""
        return len(self._crops)

    @property
    def full(self) -> bool:
        """Whether the window is ready to be taken."""
        return self.filled == self._size

    def offer(self, crop: Image, label: int | None = None) -> bool:
        """Return whether the window keeps this frame, uint8 [S, S, 3]. It keeps a copy."""
        if self.full:
            raise RuntimeError("the window is full: take() it before offering more frames")
        position = self.seen
        self.seen += 1
        if position % self._stride:
            return False
        small = thumbnail(crop)
        if self._recent and differences(small, np.stack(self._recent)).min() < self._min_difference:
            self.dropped += 1
            return False
        self._recent.append(small)
        self._crops.append(crop.copy())
        self._labels.append(label)
        return True

    def take(self) -> Window:
        """Return the frames collected so far, at least one, and start the next window."""
        if not self._crops:
            raise RuntimeError("the window is empty: offer() frames before taking it")
        known = [label for label in self._labels if label is not None]
        labels = np.array(known, np.int64) if len(known) == len(self._labels) else None
        window = Window(np.stack(self._crops), labels)
        self._crops, self._labels = [], []
        self._recent.clear()
        return window
