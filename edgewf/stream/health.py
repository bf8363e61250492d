"""How a source of frames is doing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceHealth:
    """State of a source; counts are since it was opened.

    Attributes:
        state: "starting" (no frame yet), "live", "stalled" (no frame for too long),
            "reconnecting", or "ended".
        frames: frames that arrived.
        dropped: frames that nobody took in time.
        decode_errors: frames that arrived damaged.
        reconnects: times the source was opened again.
        frozen: the picture has not changed for long.
        black: the picture has been black for long.
        last_frame: when the last frame arrived, seconds since the epoch, UTC; None before it.
        message: what the source last said of its trouble; empty without any.
    """

    state: str
    frames: int
    dropped: int
    decode_errors: int
    reconnects: int
    frozen: bool
    black: bool
    last_frame: float | None
    message: str
