"""The structures of burst.cuh in NumPy, and where each lies in one allocation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

SETTINGS = np.dtype(
    [
        ("entropy_margin", "f4"),
        ("redundancy_margin", "f4"),
        ("learning_rate", "f4"),
        ("momentum", "f4"),
        ("loss_scale", "f4"),
        ("weighted", "i4"),
        ("fisher_weight", "f4"),
    ],
    align=True,
)
COUNTERS = np.dtype(
    [
        ("recorded", "i4", 3),
        ("step", "i4"),
        ("selected", "i4"),
        ("not_finite", "i4"),
        ("have_mean", "i4"),
        ("flips", "u4", 2),
        ("weighted_flips", "u8", 2),
        ("affine_change", "f8"),
    ],
    align=True,
)
TRACE = np.dtype(
    [
        ("entropy", "f8"),
        ("samples", "i4"),
        ("reliable", "i4"),
        ("selected", "i4"),
        ("moved", "i4"),
    ],
    align=True,
)
# Pointers in the order of burst.cuh; those of `RESULT` come first and are read back in one copy.
RESULT = ("counters", "traces", "label", "confidence", "flipped")
POINTERS = (
    *RESULT,
    "settings",
    "affine",
    "deployed",
    "velocity",
    "fisher",
    "mean",
    "twice_rank",
    "row_max",
    "row_scale",
    "row_entropy",
    "row_admitted",
)
BURST = np.dtype(
    [(name, "u8") for name in POINTERS]
    + [(name, "i4") for name in ("classes", "parameters", "window", "steps")],
    align=True,
)
_ALIGNMENT = 256  # bytes, as cudaMalloc's own


class Arena:
    """Offsets of a burst's buffers in one block of device memory.

    Attributes:
        classes, parameters, window, steps: K, P, and the room for frames and steps.
        bytes: size of the block.
        result_bytes: size of its beginning, which holds what `BurstKernels.read` returns.
    """

    def __init__(self, classes: int, parameters: int, window: int, steps: int) -> None:
        self.classes, self.parameters, self.window, self.steps = classes, parameters, window, steps
        arrays: dict[str, tuple[DTypeLike, tuple[int, ...]]] = {
            "counters": (COUNTERS, (1,)),
            "traces": (TRACE, (steps,)),
            "label": ("i4", (3, window)),
            "confidence": ("f4", (3, window)),
            "flipped": ("u1", (2, window)),
            "settings": (SETTINGS, (1,)),
            "affine": ("f4", (parameters,)),
            "deployed": ("f4", (parameters,)),
            "velocity": ("f4", (parameters,)),
            "fisher": ("f4", (parameters,)),
            "mean": ("f4", (classes,)),
            "twice_rank": ("i4", (2, window)),
            "row_max": ("f4", (window,)),
            "row_scale": ("f4", (window,)),
            "row_entropy": ("f4", (window,)),
            "row_admitted": ("i4", (window,)),
        }
        self._arrays = {name: (np.dtype(dtype), shape) for name, (dtype, shape) in arrays.items()}
        self._offsets: dict[str, int] = {}
        end = 0
        for name in POINTERS:
            dtype, shape = self._arrays[name]
            self._offsets[name] = end
            end += -(-dtype.itemsize * math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
        self.bytes = end
        self.result_bytes = self._offsets[POINTERS[len(RESULT)]]

    def offset(self, name: str) -> int:
        """Return where a buffer begins, bytes."""
        return self._offsets[name]

    def burst(self, base: int) -> bytes:
        """Return the `Burst` that every kernel takes by value, for a block at address `base`."""
        burst = np.zeros((), BURST)
        for name in POINTERS:
            burst[name] = base + self._offsets[name]
        for name in ("classes", "parameters", "window", "steps"):
            burst[name] = getattr(self, name)
        return burst.tobytes()

    def view(self, block: NDArray[np.uint8], name: str) -> NDArray[Any]:
        """Return a buffer as it lies in a host copy of the block."""
        dtype, shape = self._arrays[name]
        start = self._offsets[name]
        view: NDArray[Any] = (
            block[start : start + dtype.itemsize * math.prod(shape)].view(dtype).reshape(shape)
        )
        return view
