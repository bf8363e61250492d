"""What is told of a running monitor."""

from __future__ import annotations

from dataclasses import dataclass

from edgewf.estimate import Estimate
from edgewf.health import Health


@dataclass(frozen=True)
class Status:
    """Where a monitor stands; all counts are of frames.

    Attributes:
        seen: offered so far.
        kept: taken into windows so far.
        dropped: left out as near-duplicates so far.
        filled: in the window that is being collected.
    """

    seen: int
    kept: int
    dropped: int
    filled: int


class Listener:
    """Is told of a run; does nothing unless overridden.

    All calls come from one thread that does nothing else, one at a time: a slow listener delays
    the others, never a frame or a burst. An exception is a health problem until the same call next
    succeeds; the others are told all the same. A listener that could not take an estimate and
    overrides `health` is well again, too, when that succeeds: there it can try once more.
    """

    def frame(self, status: Status) -> None:
        """Called once before the first frame, then a few times a second while frames come."""

    def progress(self, step: int, steps: int) -> None:
        """Called while a burst runs; steps that follow each other closely are reported once."""

    def estimate(self, estimate: Estimate) -> None:
        """Called with every estimate."""

    def health(self, health: Health) -> None:
        """Called every few seconds."""

    def close(self) -> None:
        """Called once, however the run ends."""
