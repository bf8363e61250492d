"""One window out of a whole recording."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgewf.errors import EdgewfError
from edgewf.preprocessing import Image
from edgewf.stream.frame import Source
from edgewf.stream.sampler import Window


def draw_window(
    source: Source, preprocess: Callable[[Image], Image], size: int, seed: int
) -> tuple[Window, int]:
    """Draw `size` frames uniformly from a source that ends, keeping no more than that in memory.

    Reservoir sampling (Vitter, 1985, algorithm R). The same source and seed give the same window.

    Returns:
        The window, its frames in random order, and the number of frames it was drawn from.

    Raises:
        EdgewfError: a live source, or fewer frames than `size`.
    """
    if source.live:
        raise EdgewfError(f"{source.uri} never ends: watch it with `edgewf monitor`")
    rng = np.random.default_rng(seed)
    crops: list[Image] = []
    labels: list[int | None] = []
    seen = 0
    with source:
        for frame in source:
            seen += 1
            if len(crops) < size:
                crops.append(preprocess(frame.image))
                labels.append(frame.label)
                continue
            place = int(rng.integers(seen))
            if place < size:
                crops[place], labels[place] = preprocess(frame.image), frame.label
    if seen < size:
        raise EdgewfError(
            f"{source.uri} has {seen} frames, an estimate takes {size}: give it more frames, or "
            "calibrate the bundle with a smaller --window"
        )
    order = rng.permutation(size)
    known = [label for label in labels if label is not None]
    truth = np.array(known, np.int64)[order] if len(known) == size else None
    return Window(np.stack(crops)[order], truth), seen
