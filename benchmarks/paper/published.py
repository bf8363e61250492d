"""What Press et al., "The Entropy Enigma" (ICML 2024), publish of Weighted Flips."""

from __future__ import annotations

import math

from edgewf.settings import BurstSettings

MODEL = "resnet50"
STEPS, BATCH = 990, 64
PROBES, PROBE_BATCH = 1000, 100
SEED = 42

# Mean absolute error over the paper's 23 data sets, points of accuracy.
PAPER_MAE = 5.75
EARLIER_MAE = 8.17

WEIGHTS = "resnet50-0676ba61.pth"
WEIGHTS_URL = f"https://download.pytorch.org/models/{WEIGHTS}"
"""torchvision's first weights of ResNet-50, which the authors' code loads; not today's default."""

RESIZE = 256  # pixels, of those weights


def published_f(weighted_flips: float) -> float:
    """Return the accuracy in percent for weighted flips per 1,000, within 0 and 100.

    The authors' code, `coefficients`: fitted to ResNet-50 on ImageNet's validation images and the
    held-out corruptions of ImageNet-C, 990 steps of 64, flips among 1,000 images.
    """
    x = weighted_flips
    return min(max(3.55553868e-4 * x**2 - 3.21445023e-1 * x + 7.56618580e1, 0.0), 100.0)


def paper_settings(classes: int, steps: int, batch: int, probes: int) -> BurstSettings:
    """Return RDumb as the authors' code sets it: margins 0.4 ln K and 0.05, SGD at 2.5e-4.

    Args:
        classes: K.
        steps, batch: of the burst.
        probes: images whose labels are compared, rounded up to whole batches.
    """
    return BurstSettings(
        objective="rdumb",
        steps=steps,
        batch_size=batch,
        window=math.ceil(probes / batch) * batch,
        source_samples=0.0,
        learning_rate=2.5e-4,
        momentum=0.9,
        entropy_margin=0.4 * math.log(classes),
        redundancy_margin=0.05 if classes >= 500 else 0.4,
        seed=SEED,
    )
