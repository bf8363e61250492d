"""Every score of a window, by its key, and what they must know of clean images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgewf.engines import BurstRecord
from edgewf.estimators.aetta import aetta
from edgewf.estimators.atc import AverageThresholdedConfidence
from edgewf.estimators.cot import ConfidenceOptimalTransport, ThresholdedOptimalTransport
from edgewf.estimators.difference_of_confidences import DifferenceOfConfidences, average_confidence
from edgewf.estimators.mano import mano
from edgewf.estimators.mde import mde
from edgewf.estimators.rows import confidence, negative_entropy
from edgewf.estimators.score import Clean, OfLogits, OfRecord, Score
from edgewf.estimators.scores import certainty, dispersion, nuclear_norm, soft_agreement
from edgewf.estimators.temperature import fit_temperature, scaled
from edgewf.flips import count_flips

_TEMPERED = "_tempered"

_ALL: tuple[Score, ...] = (
    OfRecord("weighted_flips", lambda r: count_flips(r.deployed, r.after.label).weighted),
    OfRecord("flips", lambda r: count_flips(r.deployed, r.after.label).count),
    OfRecord("weighted_flips_batch", lambda r: count_flips(r.before, r.after.label).weighted),
    OfRecord("flips_batch", lambda r: count_flips(r.before, r.after.label).count),
    OfRecord("weighted_zero_step", lambda r: count_flips(r.deployed, r.before.label).weighted),
    OfRecord("zero_step", lambda r: count_flips(r.deployed, r.before.label).count),
    OfRecord("soft_agreement", lambda r: soft_agreement(r.deployed.logits, r.after.logits)),
    OfRecord(
        "soft_agreement_zero_step", lambda r: soft_agreement(r.deployed.logits, r.before.logits)
    ),
    OfLogits("average_confidence", average_confidence),
    DifferenceOfConfidences(),
    AverageThresholdedConfidence("atc_confidence", confidence),
    AverageThresholdedConfidence("atc_entropy", negative_entropy),
    ConfidenceOptimalTransport(),
    ThresholdedOptimalTransport(),
    OfLogits("certainty", certainty),
    OfLogits("dispersion", dispersion),
    OfLogits("nuclear_norm", nuclear_norm),
    OfLogits("mano", mano),
    OfLogits("mde", mde),
    OfRecord("aetta", aetta),
)
SCORES: dict[str, Score] = {score.name: score for score in _ALL}
KEYS = (*SCORES, *(f"{name}{_TEMPERED}" for name in SCORES))
"""Every score, then every score of logits at the temperature that suits clean images."""

_OF_DROPOUT = frozenset({"aetta", f"aetta{_TEMPERED}"})


def asks_for_dropout(keys: Iterable[str]) -> bool:
    """Tell whether one of some scores needs dropout inferences in the record."""
    return not _OF_DROPOUT.isdisjoint(keys)


def keys_of(record: BurstRecord) -> tuple[str, ...]:
    """Return which of `KEYS` can be told of a record."""
    return tuple(key for key in KEYS if record.dropout is not None or key not in _OF_DROPOUT)


@dataclass(frozen=True)
class References:
    """What scores know of clean images with labels.

    Attributes:
        temperature: that suits them, see `fit_temperature`.
        scores: what each score's `reference` returned, by its key; scores that need nothing are
            left out.
    """

    temperature: float
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, clean: Clean) -> References:
        """Look at clean windows."""
        logits = np.concatenate([record.deployed.logits for record, _ in clean])
        temperature = fit_temperature(logits, np.concatenate([labels for _, labels in clean]))
        tempered = [(scaled(record, temperature), labels) for record, labels in clean]
        found = {
            name + suffix: score.reference(windows)
            for suffix, windows in (("", clean), (_TEMPERED, tempered))
            for name, score in SCORES.items()
        }
        known = {key: reference for key, reference in found.items() if reference}
        return cls(temperature, known)

    def to_json(self) -> dict[str, Any]:
        """Return what a calibration keeps."""
        return asdict(self)


def evaluate(
    keys: Iterable[str], record: BurstRecord, references: References | None
) -> dict[str, float]:
    """Return scores of a window by key.

    Args:
        keys: some of `KEYS`.
        record: what a burst read back.
        references: may be None if no key needs any.
    """
    known = {} if references is None else references.scores
    tempered: BurstRecord | None = None
    found = {}
    for key in keys:
        name = key.removesuffix(_TEMPERED)
        seen = record
        if name != key:
            assert references is not None
            tempered = tempered or scaled(record, references.temperature)
            seen = tempered
        found[key] = SCORES[name](seen, known.get(key, {}))
    return found
