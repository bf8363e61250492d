"""What every source yields."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar

from edgewf.preprocessing import Image
from edgewf.stream.health import SourceHealth

_Self = TypeVar("_Self", bound="Source")  # typing.Self is younger than Python 3.10


@dataclass(frozen=True)
class Frame:
    """One picture of a stream.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        index: position among the frames that the source yielded, from 0.
        time: when the frame was read, seconds since the epoch, UTC.
        label: class index where the source knows the truth.
    """

    image: Image
    index: int
    time: float
    label: int | None = None


class Source(Protocol):
    """A stream of frames; close it, or use it as a context manager.

    Attributes:
        uri: where the frames come from, fit for display (passwords are masked).
        live: True for cameras, which drop the frames that nobody took in time; False where every
            frame waits to be read.
        frames_total: number of frames; None where it is unknown.
    """

    uri: str
    live: bool
    frames_total: int | None

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def health(self) -> SourceHealth | None:
        """Return how the source is doing; None if whoever takes the frames knows as much.

        May be called from any thread, also while another waits for a frame.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go of the file or device. A second call does nothing."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
