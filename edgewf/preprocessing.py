"""From a camera frame to the square of pixels that the graphs take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError

Image = NDArray[np.uint8]

INTERPOLATIONS = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side, crop the centre, leave normalisation to the graph.

    Attributes:
        image_size: side of the square crop, in pixels.
        resize: length of the shorter side before the crop, in pixels (at least `image_size`).
        interpolation: "bilinear" or "bicubic", for enlarging; shrinking averages over source
            pixels, which comes closest to the Pillow-based pipelines that models train with.
        mean, std: per RGB channel, on pixels scaled to [0, 1]; applied inside the graphs.
    """

    image_size: int
    resize: int
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise EdgewfError(
                f"unknown interpolation {self.interpolation!r}: use one of "
                + ", ".join(INTERPOLATIONS)
            )
        if not 1 <= self.image_size <= self.resize:
            raise EdgewfError(
                f"image size {self.image_size} does not fit a resized side of {self.resize}: "
                "the crop must be at least 1 pixel and at most the resized side"
            )

    def __call__(self, frame: Image) -> Image:
        """Return uint8 [S, S, 3] RGB for a uint8 [H, W, 3] RGB frame of any size."""
        height, width = frame.shape[:2]
        scale = self.resize / min(height, width)
        if scale != 1.0:
            size = (max(self.resize, round(width * scale)), max(self.resize, round(height * scale)))
            # OpenCV's other modes sample 2 or 4 source pixels however far they shrink; area
            # averaging keeps fine texture from turning into noise that the network never saw.
            mode = cv2.INTER_AREA if scale < 1 else INTERPOLATIONS[self.interpolation]
            frame = np.asarray(cv2.resize(frame, size, interpolation=mode), np.uint8)
            height, width = frame.shape[:2]
        top, left = (height - self.image_size) // 2, (width - self.image_size) // 2
        crop = frame[top : top + self.image_size, left : left + self.image_size]
        return np.ascontiguousarray(crop)

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Preprocessing:
        """Read back what `to_json` wrote."""
        return cls(**{**record, "mean": tuple(record["mean"]), "std": tuple(record["std"])})
