"""Pictures that a camera should not send for long: always the same one, or a black one."""

from __future__ import annotations

import numpy as np

from edgewf.preprocessing import Image

FROZEN_S = 30.0
BLACK_S = 10.0

_EVERY = 8  # pixel in each direction: enough to tell, and cheap
# Of 255. Limited-range video has black at 16, and a sensor in the dark adds noise to it.
_DARK = 24


class PictureWatch:
    """Follows the pictures of a stream.

    A real sensor adds noise, so two shots differ even where nothing moves; only a camera, or a
    network in between, that repeats itself sends the very same pixels again and again.

    Attributes:
        frozen: the pixels have been the same for half a minute.
        black: nothing has been lighter than almost black for ten seconds.
    """

    def __init__(self) -> None:
        self.frozen = False
        self.black = False
        self._last: Image | None = None
        self._same_since = 0.0
        self._dark_since: float | None = None

    def update(self, image: Image, time: float) -> None:
        """Look at a picture, uint8 [H, W, C], that came at a time in seconds."""
        sample = image[::_EVERY, ::_EVERY].copy()
        if self._last is None or not np.array_equal(sample, self._last):
            self._last, self._same_since = sample, time
        if int(sample.max()) > _DARK:
            self._dark_since = None
        elif self._dark_since is None:
            self._dark_since = time
        self.black = self._dark_since is not None and time - self._dark_since >= BLACK_S
        # A black picture is the same all the time; once it is called black that says enough.
        self.frozen = time - self._same_since >= FROZEN_S and not self.black
