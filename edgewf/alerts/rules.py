"""When an alert goes on and off; what is sent, and how often, is no matter of theirs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from edgewf.cusum import Cusum, Reference
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.estimators.interval import Z90
from edgewf.health import Health

HYSTERESIS = 2.0
"""Percentage points above the threshold at which an alert goes off."""

PAST = 30
"""Estimates that say what is usual on a device."""

# In standard deviations. With these, independent estimates without a change give one false alarm
# in some 19,000 (Siegmund 1985), and no two estimates alone give one.
TOLERANCE = 0.5
THRESHOLD = 8.0
LARGEST = 4.0

# Percentage points; estimates that are all alike would make any change infinitely large.
_LEAST_SPREAD = 1.0


class Rule:
    """A state that estimates and health switch on and off.

    Attributes:
        name: by which messages tell rules apart.
        concerns_accuracy: whether it, once on, makes `edgewf monitor` end with status 1.
        on: the state now.
        since: when what it warns of began, seconds since the epoch; None while it is off.
        text: one sentence on the state, for people.
    """

    name = ""
    concerns_accuracy = True

    def __init__(self) -> None:
        self.on = False
        self.since: float | None = None
        self.text = ""

    def estimate(self, estimate: Estimate) -> None:
        """Take an estimate into account."""

    def health(self, health: Health) -> None:
        """Take a report of health into account."""

    def _switch(self, on: bool, since: float | None, text: str) -> None:
        self.on, self.since, self.text = on, since, text


class AlertBelow(Rule):
    """On when the accuracy is below a threshold, off when it has clearly recovered.

    Off means at or above the threshold plus 2 points (100 at most), so that an accuracy near the
    threshold does not switch it to and fro. An estimate without an accuracy changes nothing.

    Args:
        threshold_percent: 0 to 100.
        past: earlier estimates of the same model, source and burst, oldest first. What they have
            switched on is on from the start.

    Raises:
        EdgewfError: threshold out of range.
    """

    name = "below"

    def __init__(self, threshold_percent: float, past: Sequence[Estimate] = ()) -> None:
        super().__init__()
        if not 0.0 <= threshold_percent <= 100.0:
            raise EdgewfError(f"alert below {threshold_percent:g}: give a percentage, 0 to 100")
        self.threshold_percent = threshold_percent
        for estimate in past:
            self.estimate(estimate)

    def estimate(self, estimate: Estimate) -> None:
        accuracy = estimate.accuracy
        if accuracy is None:
            return
        limit = f"the limit of {self.threshold_percent:g} %"
        if self.on and accuracy >= min(self.threshold_percent + HYSTERESIS, 100.0):
            self._switch(False, None, f"accuracy {accuracy:.1f} %, above {limit} again")
        elif not self.on and accuracy < self.threshold_percent:
            self._switch(True, estimate.time, f"accuracy {accuracy:.1f} %, below {limit}")


class AlertOnChange(Rule):
    """On when the accuracy has fallen below what is usual on this device.

    The first 30 estimates say what is usual. From then on a one-sided CUSUM adds up how far
    estimates fall short of it, in units of their spread or of their own 90 % interval, whichever
    is larger, so that no more is read into an estimate than it can tell; a single one counts 4
    units at most, so it takes three. The change began where the sum last was 0. The alert goes
    off when the sum is 0 again. What is usual stays as it was.

    Args:
        past: as of `AlertBelow`.

    Attributes:
        usual: mean accuracy of the first estimates, percent; None while there are too few.
    """

    name = "change"

    def __init__(self, past: Sequence[Estimate] = ()) -> None:
        super().__init__()
        self._reference = Reference(PAST)
        self._cusum = Cusum(TOLERANCE)
        self._began: float | None = None
        for estimate in past:
            self.estimate(estimate)

    @property
    def usual(self) -> float | None:
        return self._reference.mean if self._reference.full else None

    def estimate(self, estimate: Estimate) -> None:
        accuracy, interval = estimate.accuracy, estimate.interval
        if accuracy is None or interval is None:
            return
        if not self._reference.full:
            self._reference.add(accuracy)
            return
        # Intervals end at 0 and 100; the longer side says how sure the estimate is.
        own = max(accuracy - interval[0], interval[1] - accuracy) / Z90
        spread = max(_LEAST_SPREAD, self._reference.spread, own)
        shortfall = (self._reference.mean - accuracy) / spread
        total = self._cusum.update(max(-LARGEST, min(LARGEST, shortfall)), THRESHOLD)
        if self._cusum.age == 1:
            self._began = estimate.time
        usual = f"{self._reference.mean:.1f} %"
        if not self.on and total >= THRESHOLD:
            text = f"accuracy {accuracy:.1f} %, usual is {usual}; worse since {_utc(self._began)}"
            self._switch(True, self._began, text)
        elif self.on and total == 0.0:
            self._switch(False, None, f"accuracy {accuracy:.1f} %, as usual ({usual}) again")


class AlertUnhealthy(Rule):
    """On when health has named problems for so long, off when it has named none for so long.

    Args:
        seconds: 0 or more.
        past: earlier reports, oldest first; what they have switched on is on from the start.
        clock: seconds that nobody sets.

    Raises:
        EdgewfError: a negative or infinite number.
    """

    name = "unhealthy"
    concerns_accuracy = False

    def __init__(
        self,
        seconds: float,
        past: Sequence[Health] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        if not 0.0 <= seconds < math.inf:
            raise EdgewfError(f"alert after {seconds:g} unhealthy seconds: give 0 or more")
        self._seconds = seconds
        self._clock = clock
        self._other: tuple[float, float] | None = None  # when the other state began, both clocks
        for health in past:
            self._take(health, health.time)
        self._other = None

    def health(self, health: Health) -> None:
        self._take(health, self._clock())

    def _take(self, health: Health, now: float) -> None:
        if bool(health.problems) == self.on:
            self._other = None
            return
        if self._other is None:
            self._other = (now, health.time)
        began, since = self._other
        if now - began >= self._seconds:
            self._other = None
            if health.problems:
                self._switch(True, since, "; ".join(health.problems))
            else:
                self._switch(False, None, "all is well again")


def _utc(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
