"""From a correlated stream to a window of frames that differ, of as many classes as there are."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.flags import effective_classes
from edgewf.preprocessing import Image
from edgewf.stream.similarity import MIN_DIFFERENCE, Thumbnail, differences, thumbnail

RECENT = 256
PAST = 8
"""Windows that the recent past is long."""

_MIXED = 0.8  # of the classes that a random sample of the past shows


Stratum = tuple[int, int | None]
"""When a frame came, in windows, and its predicted class."""


@dataclass(frozen=True)
class Window:
    """The frames of one estimate.

    Attributes:
        images: uint8 [N, S, S, 3] RGB, in the order they came.
        labels: int64 [N] class indices; None unless every frame had one.
        weights: float64 [N] with mean 1: how much of the recent past each frame stands for. None
            where all stand for as much.
    """

    images: Image
    labels: NDArray[np.int64] | None
    weights: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class _Kept:
    number: int  # among the frames that differ
    crop: Image
    small: Thumbnail
    stratum: Stratum
    label: int | None
    rank: float  # at random: of a class, those with the highest are kept


@dataclass(frozen=True)
class Taken:
    """A window before its frames are made one array, which takes a while.

    Attributes:
        frames: N, in the order they came.
        counts: how many frames of each stratum they stand for.
    """

    frames: tuple[_Kept, ...]
    counts: Counter[Stratum]

    @property
    def span(self) -> int:
        """How many frames that differ the window stands for."""
        return self.counts.total()

    def window(self) -> Window:
        """Copy the frames into one array."""
        known = [x.label for x in self.frames if x.label is not None]
        weights = stratum_weights([x.stratum for x in self.frames], self.counts)
        return Window(
            images=np.stack([x.crop for x in self.frames]),
            labels=np.array(known, np.int64) if len(known) == len(self.frames) else None,
            weights=weights,
        )


class WindowSampler:
    """Collects frames for windows: no near-duplicates, and no more of one class than needs be.

    Batch statistics need frames that differ, of many classes; a camera may show one thing for long.

    Two frames are near-duplicates when grey 16 by 16 thumbnails of them differ by less than
    `min_difference` on average. A frame is left out if it is a near-duplicate of one of the last
    256 that this window saw. A window is full after every N frames that were not left out.

    It consists of just those if their predicted classes are as mixed as those of the recent past,
    that is if their effective number, exp(entropy), is at least 0.8 of that of N predictions drawn
    from the past. If not, it consists of N frames of the past in which the predicted classes are
    balanced: prediction-balanced reservoir sampling (NOTE, Gong et al., NeurIPS 2022, algorithm 1).
    A frame that is one too many drives out one of the class that has most, so that of n frames of
    a class m are kept, each with the probability m / n. There the one to go is drawn anew each
    time, and a class that wins and loses a place in turn is soon made of its newest frames, in a
    stream in order of class mostly wrong predictions. Here each frame draws a rank once, and the
    one with the lowest goes. Frames are forgotten, and not counted any more, when `past` windows
    have come since, and a frame takes the place of a near-duplicate.

    Balance changes the mixture of classes and times, so each frame has a weight, such that
    predicted classes and windows of origin count as much as they do in the past
    (post-stratification). Frames without a prediction make windows of the last N.

    The same frames in the same order give the same windows. At most 2 N frames are held.

    Args:
        size: N, frames in a window.
        stride: look at every stride-th frame only.
        min_difference: grey levels (0 to 255); 0 keeps every frame.
        past: windows of N frames that were not left out, 1 or more. With 1 all windows are of the
            last N.
        seed: of the random choices.

    Attributes:
        seen: frames offered so far.
        dropped: near-duplicates among them (frames passed over by the stride do not count).
        balanced: the last window was not of the newest frames.
    """

    def __init__(
        self,
        size: int,
        stride: int = 1,
        min_difference: float = MIN_DIFFERENCE,
        *,
        past: int = PAST,
        seed: int = 0,
    ) -> None:
        if size < 1 or stride < 1 or past < 1 or not min_difference >= 0:  # also refuses nan
            raise EdgewfError(
                f"window size {size}, stride {stride}, past {past}, minimum difference "
                f"{min_difference}: size, stride and past must be at least 1, the difference at "
                "least 0"
            )
        self._past = past * size
        self._size = size
        self._stride = stride
        self._min_difference = min_difference
        self._rng = np.random.default_rng(seed)
        self._last: deque[_Kept] = deque(maxlen=size)
        self._memory: list[_Kept] = []
        self._strata: deque[Stratum] = deque()
        self._counts: Counter[Stratum] = Counter()
        self._recent: deque[Thumbnail] = deque(maxlen=RECENT)
        self._number = 0
        self._fresh = 0
        self.seen = 0
        self.dropped = 0
        self.balanced = False

    @property
    def filled(self) -> int:
        """Frames that came for the next window so far."""
        return self._fresh

    @property
    def full(self) -> bool:
        """Whether the window is ready to be taken."""
        return self._fresh == self._size

    def offer(self, crop: Image, label: int | None = None, prediction: int | None = None) -> bool:
        """Return False for a near-duplicate, which is left out.

        Args:
            crop: uint8 [S, S, 3]. It is copied if it is kept.
            label: its class, where that is known.
            prediction: what the deployed network takes it for.
        """
        if self.full:
            raise RuntimeError("the window is full: take() it before offering more frames")
        position = self.seen
        self.seen += 1
        if position % self._stride:
            return False
        small = thumbnail(crop)
        if self._recent and self._nearest(small, list(self._recent)) is not None:
            self.dropped += 1
            return False
        self._recent.append(small)
        self._number += 1
        self._fresh += 1
        stratum = (self._number // self._size, prediction)
        rank = float(self._rng.random())
        frame = _Kept(self._number, crop.copy(), small, stratum, label, rank)
        self._last.append(frame)
        self._count(stratum)
        self._remember(frame)
        return True

    def take(self) -> Taken:
        """Return the frames of the window, at least one, and begin the next."""
        if not self._fresh:
            raise RuntimeError("the window is empty: offer() frames before taking it")
        frames = list(self._last)[-self._fresh :]
        counts = Counter(x.stratum for x in frames)
        self.balanced = self.full and _classes(counts.elements()) < _MIXED * self._usual_classes()
        if self.balanced:
            frames = sorted(self._memory, key=lambda x: x.number)
            counts = self._counts.copy()
        self._recent.clear()
        self._fresh = 0
        return Taken(tuple(frames), counts)

    def forget(self) -> None:
        """Begin anew, without a past."""
        self._last.clear()
        self._memory.clear()
        self._strata.clear()
        self._counts.clear()
        self._recent.clear()
        self._fresh = 0
        self.balanced = False

    def _usual_classes(self) -> float:
        """Return how many predicted classes share as many frames of the past, drawn at random.

        As many, for more frames show more classes.
        """
        drawn = self._rng.choice(len(self._strata), self._size, replace=False)
        return _classes(self._strata[i] for i in drawn)

    def _count(self, stratum: Stratum) -> None:
        """Count a frame of the past, and forget the one that is too old."""
        self._strata.append(stratum)
        self._counts[stratum] += 1
        if len(self._strata) > self._past:
            oldest = self._strata.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._memory = [x for x in self._memory if x.number > self._number - self._past]

    def _remember(self, frame: _Kept) -> None:
        """Put a frame into the memory, and out of it one that is too many."""
        alike = self._nearest(frame.small, [x.small for x in self._memory])
        if alike is not None:
            del self._memory[alike]
        self._memory.append(frame)
        if len(self._memory) <= self._size:
            return
        here = Counter(x.stratum[1] for x in self._memory)
        most = max(here.values())
        crowded = [i for i, x in enumerate(self._memory) if here[x.stratum[1]] == most]
        del self._memory[min(crowded, key=lambda i: self._memory[i].rank)]

    def _nearest(self, small: Thumbnail, others: list[Thumbnail]) -> int | None:
        """Return which of some thumbnails is the most alike; None if it is no near-duplicate."""
        if not others:
            return None
        found = differences(small, np.stack(others))
        nearest = int(found.argmin())
        return nearest if found[nearest] < self._min_difference else None


def _classes(strata: Iterable[Stratum]) -> float:
    """Return how many classes share frames of these strata evenly; those without count as one."""
    return effective_classes(np.array([-1 if name is None else name for _, name in strata]))


def stratum_weights(strata: Sequence[Stratum], counts: Counter[Stratum]) -> NDArray[np.float64]:
    """Return a weight for each of N frames, float64 [N] with mean 1.

    The frames of a stratum share its count evenly. A stratum that has none is counted with the one
    of its class that is as large or larger, but the least so; else the largest (collapsed strata).
    For strata of a class differ: while it is shown most frames taken for it are right, at other
    times they are few and wrong. A class that has none is not counted.

    Args:
        strata: of the frames.
        counts: of what they stand for, each of `strata` among them.
    """
    here = Counter(strata)
    masses = Counter({stratum: counts[stratum] for stratum in here})
    for stratum, count in counts.items():
        others = [x for x in here if x[1] == stratum[1]]
        if stratum not in here and others:
            larger = [x for x in others if counts[x] >= count]
            nearest = min(larger or others, key=lambda x: abs(counts[x] - count))
            masses[nearest] += count
    weights = np.array([masses[x] / here[x] for x in strata])
    return np.asarray(weights / weights.mean(), np.float64)
