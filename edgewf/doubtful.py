"""Frames of a window on which the deployed network is the least to be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgewf.engines import BurstRecord, Images
from edgewf.estimators.scores import frame_agreement
from edgewf.preprocessing import Image

SHOWN = 6


@dataclass(frozen=True)
class DoubtfulFrame:
    """One of them.

    Attributes:
        image: uint8 [S, S, 3] RGB, as the model saw it.
        label, confidence: class index that the deployed network gave, and its probability.
        adapted: class index that the adapted network gave.
        agreement: how often labels drawn from both networks' probabilities would agree, 0 to 1.
    """

    image: Image
    label: int
    confidence: float
    adapted: int
    agreement: float


def doubtful_frames(
    images: Images, record: BurstRecord, count: int = SHOWN
) -> tuple[DoubtfulFrame, ...]:
    """Return the frames on which deployed and adapted network agree least, the worst first.

    The agreement is the frame's share in `edgewf.estimators.scores.soft_agreement`. It is low
    where the burst changed the label, and where the network wavers.

    Args:
        images: the window, uint8 [N, S, S, 3] RGB. The pictures are copies and do not keep it.
        record: of the burst on it.
        count: at most so many.
    """
    agreement = frame_agreement(record.deployed.logits, record.after.logits)
    return tuple(
        DoubtfulFrame(
            image=images[i].copy(),
            label=int(record.deployed.label[i]),
            confidence=float(record.deployed.confidence[i]),
            adapted=int(record.after.label[i]),
            agreement=float(agreement[i]),
        )
        for i in np.argsort(agreement, kind="stable")[:count]
    )
