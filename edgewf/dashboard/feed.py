"""What the page shows, put together where listeners are told and read where browsers ask.

One thread writes, another reads. Everything is replaced as a whole, so neither waits for the
other, and a browser that does not ask costs nothing.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from edgewf.alerts.alerter import State
from edgewf.doubtful import DoubtfulFrame
from edgewf.estimate import Estimate
from edgewf.flags import REASONS
from edgewf.health import Health
from edgewf.listener import Status
from edgewf.preprocessing import Image
from edgewf.telemetry.thumbnail import thumbnail

KEPT = 5000
"""Estimates that the page can look back on: 52 days at four an hour."""

_SIDE = 320  # pixels of a thumbnail


class Feed:
    """The state of a run as JSON, its estimates, and its pictures.

    Args:
        about: what never changes, ready for JSON.
        past: estimates of runs before this one, oldest first.
        alerts: returns where the rules of alerts stand.
        names: of the classes.

    Attributes:
        version: grows with everything that is new.
        ended: whether the run is over.
        doubtful: JPEG images of the worst frames of the newest window.
    """

    def __init__(
        self,
        about: dict[str, Any],
        past: Sequence[Estimate],
        alerts: Callable[[], Sequence[State]],
        names: Sequence[str],
    ) -> None:
        self.about = _text({**about, "reasons": REASONS, "began": time.time()})
        self.version = 0
        self.ended = False
        self.doubtful: tuple[bytes, ...] = ()
        self._alerts, self._names = alerts, names
        self._numbers = count(1)
        self._rows: deque[tuple[int, str]] = deque(maxlen=KEPT)  # number, JSON
        self._newest: int | None = None
        self._status: Status | None = None
        self._step: tuple[int, int] | None = None
        self._health: dict[str, Any] | None = None
        self._frames: list[dict[str, Any]] = []
        self._current: tuple[Image, bytes] | None = None
        for estimate in past[-KEPT:]:
            self._add(estimate, None, past=True)

    def frame(self, status: Status) -> None:
        """Note where the monitor stands."""
        self._status = status
        self.version += 1

    def progress(self, step: int, steps: int) -> None:
        """Note where a burst stands."""
        self._step = (step, steps)
        self.version += 1

    def estimate(
        self, estimate: Estimate, seconds: float | None, doubtful: Sequence[DoubtfulFrame]
    ) -> None:
        """Add an estimate, what its burst took, and the frames that were the worst."""
        images = [thumbnail(frame.image, _SIDE) for frame in doubtful]
        self.doubtful = tuple(image for image in images if image is not None)
        self._frames = [
            {
                "label": self._names[frame.label],
                "confidence": round(100 * frame.confidence, 1),
                "adapted": self._names[frame.adapted],
                "agreement": round(100 * frame.agreement, 1),
            }
            for frame in doubtful
        ]
        self._step = None
        self._add(estimate, seconds)
        self.version += 1

    def health(self, health: Health) -> None:
        """Note how the monitor is doing."""
        self._health = health.to_json()
        self.version += 1

    def end(self) -> None:
        """Note that the run is over."""
        self._step = None
        self.ended = True
        self.version += 1

    def state(self) -> str:
        """Return the JSON of everything but the estimates, at this moment."""
        return _text(
            {
                "now": time.time(),
                "ended": self.ended,
                "status": None if self._status is None else vars(self._status),
                "burst": self._step,
                "newest": self._newest,
                "alerts": [alert._asdict() for alert in self._alerts()],
                "health": self._health,
                "doubtful": self._frames,
            }
        )

    def history(self, after: int) -> str:
        """Return a JSON array of the estimates with a greater number than `after`, in order."""
        # Made anew if the other thread adds one meanwhile, which is what a deque complains of.
        while True:
            try:
                texts = [text for number, text in self._rows if number > after]
            except RuntimeError:
                continue
            return f"[{','.join(texts)}]"

    def current(self, image: Image | None) -> bytes | None:
        """Return a JPEG of a frame, made once for all who look at it. One thread at a time."""
        if image is None:
            return None
        if self._current is None or self._current[0] is not image:
            self._current = (image, thumbnail(image, _SIDE) or b"")
        return self._current[1]

    def _add(self, estimate: Estimate, seconds: float | None, past: bool = False) -> None:
        number = next(self._numbers)
        low, high = estimate.interval or (None, None)
        row = {
            "n": number,
            "time": round(estimate.time, 1),
            "accuracy": _rounded(estimate.accuracy),
            "low": _rounded(low),
            "high": _rounded(high),
            "true": _rounded(estimate.true_accuracy),
            "confidence": _rounded(estimate.average_confidence),
            "flags": estimate.flags,
            "frames": estimate.frames,
            "seconds": _rounded(seconds),
            "past": past,
        }
        self._rows.append((number, _text(row)))
        self._newest = number


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
