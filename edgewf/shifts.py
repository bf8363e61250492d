"""The corruptions that calibration measures a model under: ImageNet-C's four held-out ones.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, set speckle noise, Gaussian blur, spatter and saturate apart for
validation. A curve fitted on them has not seen the fifteen corruptions that papers report on.
Settings and order of operations are those of the authors' published code.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgewf.errors import EdgewfError
from edgewf.preprocessing import Image

CLEAN = "clean"
SEVERITIES = (1, 2, 3, 4, 5)

Pixels = NDArray[np.floating]
"""RGB or a single plane, scaled so that 0 is black and 1 is white."""


def shift(name: str, images: Image, severity: int, seed: int) -> Image:
    """Return the images under one corruption.

    Image i draws from a generator seeded by (seed, i). So the same seed gives the same pixels,
    and what happens to image i does not depend on how many images stand beside it, only on its
    place: pass a set whole rather than in pieces that each start again at 0. All severities of a
    corruption see the same draws.

    Args:
        name: a key of `SHIFTS`, or "clean".
        images: uint8 [N, S, S, 3] RGB. The published settings are meant for S = 224; they are
            applied as they are, in pixels, at any S.
        severity: 1 (mild) to 5 (strong); 0 leaves the images as they are.
        seed: 0 or greater.

    Returns:
        uint8 [N, S, S, 3]. For "clean" or severity 0 this is `images` itself, not a copy.

    Raises:
        EdgewfError: an unknown name or severity, a negative seed, or images of another form.
    """
    if name != CLEAN and name not in SHIFTS:
        raise EdgewfError(f"unknown shift {name!r}: use one of {', '.join((CLEAN, *SHIFTS))}")
    if severity not in (0, *SEVERITIES):
        raise EdgewfError(
            f"severity {severity} of shift {name!r} does not exist: use 1 to 5, or 0 for no shift"
        )
    if seed < 0:
        raise EdgewfError(f"seed {seed} is negative: use 0 or a greater whole number")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise EdgewfError(
            f"a shift takes uint8 images [N, S, S, 3], not {images.dtype} {list(images.shape)}: "
            "pass the preprocessed RGB images, before any normalisation"
        )
    if name == CLEAN or severity == 0:
        return images
    shifted = np.empty_like(images)
    for i, image in enumerate(images):
        pixels = SHIFTS[name](image, severity, np.random.default_rng((seed, i)))
        # Truncated, not rounded: so does the published code.
        shifted[i] = (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return shifted


def calibration_shifts() -> list[tuple[str, int]]:
    """Return the (name, severity) pairs of a calibration: clean once, then 4 x 5."""
    return [(CLEAN, 0), *((name, severity) for name in SHIFTS for severity in SEVERITIES)]


def _speckle_noise(image: Image, severity: int, rng: np.random.Generator) -> Pixels:
    scale = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
    x = image / 255.0
    return x + x * rng.normal(scale=scale, size=x.shape)


def _gaussian_blur(image: Image, severity: int, rng: np.random.Generator) -> Pixels:
    sigma = (1, 2, 3, 4, 6)[severity - 1]
    return _blur(image / 255.0, sigma)


def _spatter(image: Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Splash water (severities 1 to 3) or mud (4 and 5) where smoothed noise is highest."""
    mean, std, sigma, threshold, strength, splash = (
        (0.65, 0.3, 4, 0.69, 0.6, _water),
        (0.65, 0.3, 3, 0.68, 0.6, _water),
        (0.65, 0.3, 2, 0.68, 0.5, _water),
        (0.65, 0.3, 1, 0.65, 1.5, _mud),
        (0.67, 0.4, 1, 0.65, 1.5, _mud),
    )[severity - 1]
    liquid = _blur(rng.normal(mean, std, image.shape[:2]), sigma)
    liquid[liquid < threshold] = 0
    return splash((image / 255.0).astype(np.float32), liquid, strength)


def _water(x: Pixels, liquid: Pixels, strength: float) -> Pixels:
    """Brighten the drops towards pale turquoise, most along their lower right edges."""
    depth = (np.minimum(liquid, 1) * 255).astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(depth, 50, 150), cv2.DIST_L2, 5)
    near = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    relief = cv2.blur(cv2.filter2D(cv2.equalizeHist(near), cv2.CV_8U, emboss), (3, 3))
    drops = depth * relief.astype(np.float32)
    peak = drops.max()
    if peak == 0:  # No drop formed, as on small images; the published code divides 0 by 0 here.
        return x
    turquoise = np.array((175, 238, 238), np.float32) / np.float32(255)
    light: Pixels = (drops / peak * np.float32(strength))[..., None] * turquoise
    return x + light


def _mud(x: Pixels, liquid: Pixels, sigma: float) -> Pixels:
    """Cover the splashes with brown, thinner at their rims."""
    cover = _blur((liquid > 0).astype(np.float64), sigma)[..., None]
    cover[cover < 0.8] = 0
    brown = np.array((63, 42, 20)) / 255.0
    return x * (1 - cover) + cover * brown


def _saturate(image: Image, severity: int, rng: np.random.Generator) -> Pixels:
    """Scale and offset the S of HSV at constant H and V."""
    scale, offset = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    x = image / 255.0
    value = x.max(axis=2, keepdims=True)
    chroma = value - x.min(axis=2, keepdims=True)
    saturation = np.divide(chroma, value, out=np.zeros_like(value), where=value > 0)
    target = np.clip(saturation * scale + offset, 0, 1)
    # How far each channel lies below V, as a share of the chroma, is what H fixes.
    below: Pixels = np.divide(value - x, chroma, out=np.zeros_like(x), where=chroma > 0)
    # Grey has no hue; HSV calls it 0, which is red.
    below[..., 1:][chroma[..., 0] == 0] = 1
    vivid: Pixels = value * (1 - below * target)
    return vivid


def _blur(x: Pixels, sigma: float) -> Pixels:
    side = 2 * int(4 * sigma + 0.5) + 1  # Four standard deviations each way, as in SciPy.
    blurred = cv2.GaussianBlur(x, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, x.dtype)


SHIFTS: dict[str, Callable[[Image, int, np.random.Generator], Pixels]] = {
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "spatter": _spatter,
    "saturate": _saturate,
}
