"""What one window of frames says about the model, as the user and the JSON see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """Accuracy of the deployed network on one window. `to_json` is the stable public form.

    Attributes:
        accuracy: estimated accuracy in percent; None without a calibration.
        interval: 90 % interval (low, high) in percent; None without a calibration.
        weighted_flips: flips from the deployed labels, each weighted by the rank of its initial
            confidence, per 1,000 frames (Press et al., ICML 2024).
        flips: the same flips unweighted, per 1,000 frames.
        selected_share: mean share of each batch that the objective let adapt, 0 to 1.
        frames: number of frames in the window.
        steps: optimisation steps that the burst took; fewer than it was set to if it collapsed.
        average_confidence: mean maximum probability of the deployed network, in percent.
        flags: short reasons to doubt the number; empty when there are none.
        model: name of the exported model.
        time: end of the window, seconds since the epoch, UTC.
        source: where the frames came from.
        engine: name of the engine that ran the burst.
        estimator: what made the accuracy of the scores; None without a calibration.
        scores: that the estimator looked at, by key, see `edgewf.estimators.table`; empty without
            a calibration.
        true_accuracy: percent, where labels were given.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    weighted_flips: float
    flips: float
    selected_share: float
    frames: int
    steps: int
    average_confidence: float
    flags: tuple[str, ...]
    model: str
    time: float
    source: str
    engine: str
    estimator: str | None
    scores: dict[str, float]
    true_accuracy: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; `true_accuracy` only where labels were given."""
        record: dict[str, Any] = {
            "accuracy": _rounded(self.accuracy),
            "interval": None if self.interval is None else [round(x, 3) for x in self.interval],
            "weighted_flips": _rounded(self.weighted_flips),
            "flips": _rounded(self.flips),
            "selected_share": round(self.selected_share, 4),
            "frames": self.frames,
            "steps": self.steps,
            "average_confidence": _rounded(self.average_confidence),
            "flags": list(self.flags),
            "model": self.model,
            "time": round(self.time, 3),
            "source": self.source,
            "engine": self.engine,
            "estimator": self.estimator,
            "scores": {key: round(score, 4) for key, score in self.scores.items()},
        }
        if self.true_accuracy is not None:
            record["true_accuracy"] = _rounded(self.true_accuracy)
        return record

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Estimate:
        """Read back what `to_json` wrote, rounded as it is."""
        interval = record["interval"]
        return cls(
            **{
                **record,
                "interval": None if interval is None else (interval[0], interval[1]),
                "flags": tuple(record["flags"]),
            }
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
