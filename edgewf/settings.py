"""The numbers that define a burst. A calibration is valid for exactly these."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgewf.errors import EdgewfError
from edgewf.kernels.reference import Objective

OBJECTIVES = ("tent", "eta", "eata", "rdumb", "sar")

RDUMB_RESET = 1000  # steps, of the authors' code
SAR_ASCENT = 0.05  # rho, of the authors' code
# SAR starts again below 0.2 nats, with the margin of 0.4 ln 1000 that it is made for.
SAR_RECOVERY = 0.2 / (0.4 * math.log(1000))


@dataclass(frozen=True)
class BurstSettings:
    """A burst on a window of frames.

    Attributes:
        objective: what the steps minimise, and on which samples:
            "tent" the entropy of all (Wang et al., ICLR 2021);
            "eta" that of reliable and non-redundant samples, the surer the heavier (Niu et al.,
            ICML 2022);
            "eata" the same, with a pull towards the deployed parameters that is the stronger the
            more its predictions on clean images depend on them (same paper);
            "rdumb" eta, started again every 1,000 steps (Press et al., NeurIPS 2023), so that
            shorter bursts are eta's;
            "sar" that of reliable samples where it is flat: each step looks uphill first, and
            starts again when the entropy collapses (Niu et al., ICLR 2023). Its authors leave
            the last stage of a network alone; here all BatchNorm layers adapt.
        steps: optimisation steps.
        batch_size: samples whose statistics stand for the batch, also when labels are taken.
        window: frames an estimate is made from.
        source_samples: samples that the running statistics count for beside a batch (Schneider
            et al., NeurIPS 2020); 0 uses the batch's statistics alone, as the paper does.
        learning_rate, momentum: of SGD on the affine vector.
        entropy_margin: nats; all but tent adapt on samples of lower entropy.
        redundancy_margin: absolute cosine; eta, eata and rdumb adapt on samples less alike than
            this to the running mean of what they selected.
        seed: of the order in which the window is cut into batches.
        fisher_weight: of eata's pull.
    """

    objective: str
    steps: int
    batch_size: int
    window: int
    source_samples: float
    learning_rate: float
    momentum: float
    entropy_margin: float
    redundancy_margin: float
    seed: int = 0
    fisher_weight: float = 2000.0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise EdgewfError(
                f"unknown objective {self.objective!r}: use one of {', '.join(OBJECTIVES)}"
            )
        if self.batch_size < 2:
            raise EdgewfError(f"batch size {self.batch_size}: batch statistics need at least 2")
        if self.window < self.batch_size or self.window % self.batch_size:
            near = max(1, round(self.window / self.batch_size)) * self.batch_size
            raise EdgewfError(
                f"window of {self.window} frames is no multiple of the batch size "
                f"{self.batch_size}: choose a window of {near}, or another batch size"
            )
        if not 0 <= self.source_samples < math.inf:
            raise EdgewfError(
                f"source samples {self.source_samples}: need a finite number of at least 0"
            )
        if not 0 <= self.fisher_weight < math.inf:
            raise EdgewfError(
                f"Fisher weight {self.fisher_weight}: need a finite number of at least 0"
            )
        if self.steps < 0 or not self.learning_rate > 0 or not 0 <= self.momentum < 1:
            raise EdgewfError(
                f"burst of {self.steps} steps, learning rate {self.learning_rate}, momentum "
                f"{self.momentum}: need steps >= 0, learning rate > 0, 0 <= momentum < 1"
            )

    @classmethod
    def default(cls, classes: int) -> BurstSettings:
        """Return the defaults for a model of `classes` classes.

        The objective is tent: with a filter, a window on which nothing passes flips nothing
        and would look like the best the model can do. The margins are those of EATA: 0.4 ln K,
        and 0.05 for the 1,000 classes it was tuned on. With few classes every probability
        vector is close to the mean one (at K = 10 a margin of 0.05 selects nothing after the
        first step), so there it is the 0.4 that EATA uses for CIFAR-10. The Fisher weights are
        EATA's for the two data sets, too.
        """
        return cls(
            objective="tent",
            steps=5,  # each frame of the window once
            batch_size=50,
            window=250,
            source_samples=0.0,
            learning_rate=0.005,
            momentum=0.9,
            entropy_margin=0.4 * math.log(classes),
            redundancy_margin=0.05 if classes >= 500 else 0.4,
            fisher_weight=2000.0 if classes >= 500 else 1.0,
        )

    @property
    def source_weight(self) -> float:
        """Weight of the running statistics in those a burst uses, 0 to 1."""
        return self.source_samples / (self.source_samples + self.batch_size)

    @property
    def kernel_objective(self) -> Objective:
        """The margins and weighting that the kernel takes."""
        if self.objective == "tent":
            return Objective()
        if self.objective == "sar":
            return Objective(
                self.entropy_margin,
                sharpness=SAR_ASCENT,
                recovery=SAR_RECOVERY * self.entropy_margin,
            )
        return Objective(
            self.entropy_margin,
            self.redundancy_margin,
            weighted=True,
            fisher_weight=self.fisher_weight if self.objective == "eata" else 0.0,
            reset_every=RDUMB_RESET if self.objective == "rdumb" else 0,
        )

    def with_changes(self, **changes: Any) -> BurstSettings:
        """Return a copy with the changes that are not None."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    def to_json(self) -> dict[str, Any]:
        """Return what manifest and calibration record."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> BurstSettings:
        """Read back what `to_json` wrote."""
        return cls(**record)

    def difference(self, other: BurstSettings) -> list[str]:
        """Name each field that differs, with both values."""
        a, b = self.to_json(), other.to_json()
        return [f"{key} {a[key]} against {b[key]}" for key in a if a[key] != b[key]]
