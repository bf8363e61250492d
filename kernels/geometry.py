"""How many threads share a row of logits, and how much of it each holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

WARP = 32
LOAD = 16  # bytes, the widest load of a thread
# Elements that a thread holds in registers: enough to hide what combining its sums with those of
# the other threads costs, few enough not to spill.
HELD = 16
MAX_LANES = 512
_BLOCK = 128  # threads, where a row takes a warp or less


@dataclass(frozen=True)
class Geometry:
    """The threads of `em_objective`.

    A chunk is 16 bytes of logits, what a thread loads at once.

    Attributes:
        lanes: threads a row, a power of two; up to 32 of them are part of a warp, more a block.
        chunks: chunks that a thread holds in registers at a time.
        resident: a row fits into the registers of its threads and is read once; longer ones (more
            than 8,192 classes) are read again from the L2 cache for the gradient.
    """

    lanes: int
    chunks: int
    resident: bool

    @classmethod
    def of(cls, classes: int, itemsize: int) -> Geometry:
        """Choose for rows of `classes` logits of `itemsize` bytes."""
        width = LOAD // itemsize
        held = HELD // width
        # Rows that are no multiple of 16 bytes long begin up to this many elements into a chunk.
        lead = width - math.gcd(classes, width)
        chunks = -(-(lead + classes) // width)
        lanes = 1 << (-(-chunks // held) - 1).bit_length()
        if lanes <= MAX_LANES:
            return cls(lanes, held, True)
        return cls(2 * MAX_LANES, held // 2, False)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.lanes if self.lanes > WARP else _BLOCK

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.threads // self.lanes
