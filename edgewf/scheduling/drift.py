"""A cheap look at every frame: has the deployed network's confidence left its own past?"""

from __future__ import annotations

import math

from edgewf.cusum import Cusum, Reference

# Frames whose mean and spread are the past. Near-duplicates do not count, so these differ.
REFERENCE = 200
# In standard deviations: what is tolerated (Page's reference value, half of the shift that is
# looked for), and the sum at which the alarm goes. For independent normal values the textbook
# formula (Siegmund 1985) gives one false alarm in about a million frames, and a shift of one
# standard deviation is seen after some 24 frames; real confidences are neither, see the tests.
TOLERANCE = 0.5
THRESHOLD = 12.0
# Confidences that are all alike would make any change infinitely large.
_LEAST_SPREAD = 0.02


class ConfidenceDrift:
    """Two-sided CUSUM (Page 1954) on the deployed confidence.

    It only decides that an estimate is due early, so a false alarm costs one burst, and a missed
    one waits for the next regular estimate. After an alarm, and after `restart`, the frames that
    follow become the new past.

    A camera that pans, or sees one class after the other, changes the confidence with every scene.
    So an alarm counts only if it is the first in a while: one that follows another soon tells of
    the stream, not of the network.

    Args:
        quiet: frames without any alarm, counted or not, before one that counts.
    """

    def __init__(self, quiet: int = 0) -> None:
        self._quiet = quiet
        self._since_alarm = quiet
        self.restart()

    def restart(self) -> None:
        """Forget the past."""
        self._past = Reference(REFERENCE)
        self._above, self._below = Cusum(TOLERANCE), Cusum(TOLERANCE)

    def update(self, confidence: float) -> bool:
        """Take one frame's confidence, 0 to 1; return whether an alarm that counts goes.

        NaN is passed over.
        """
        if math.isnan(confidence):
            return False
        self._since_alarm += 1
        if not self._past.full:
            self._past.add(confidence)
            return False
        z = (confidence - self._past.mean) / max(_LEAST_SPREAD, self._past.spread)
        if max(self._above.update(z), self._below.update(-z)) < THRESHOLD:
            return False
        self.restart()
        counts = self._since_alarm > self._quiet
        self._since_alarm = 0
        return counts
