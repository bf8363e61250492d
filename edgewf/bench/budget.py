"""Burst settings that fit a budget, from what each call of an engine was measured to cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgewf.bench.case import Case, measurable
from edgewf.bench.nvml import Nvml
from edgewf.bench.power import power_sources
from edgewf.bench.result import label
from edgewf.errors import EdgewfError
from edgewf.settings import BurstSettings

_UNITS = {
    "ms": ("s", 1e-3),
    "s": ("s", 1.0),
    "min": ("s", 60.0),
    "mJ": ("J", 1e-3),
    "J": ("J", 1.0),
}
_SMALLEST_WINDOW = 2  # batches; one batch alone has no other to be mixed with


@dataclass(frozen=True)
class Budget:
    """What an estimate may cost.

    Attributes:
        amount: seconds or joules.
        unit: "s" or "J".
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "100ms", "1.5 s" or "5J".

        Raises:
            EdgewfError: no such amount.
        """
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*", text)
        if match is None or match[2] not in _UNITS or not float(match[1]) > 0:
            raise EdgewfError(
                f"budget {text!r}: give a time or an energy such as 100ms, 2s, 500mJ or 5J"
            )
        unit, factor = _UNITS[match[2]]
        return cls(float(match[1]) * factor, unit)

    def cost(self, estimate: dict[str, Any]) -> float | None:
        """Return what measured estimates cost in this unit, None if that is not known."""
        cost: float | None
        cost = estimate["joules"] if self.unit == "J" else estimate["seconds"]["p50"]
        return cost

    def __str__(self) -> str:
        return amount_text(self.amount, self.unit)


@dataclass(frozen=True)
class Proposal:
    """A burst that fits.

    Attributes:
        case: label of the measured case that it stands on.
        bundle: its folder, which fixes the precision.
        engine, threads: as `--engine` and `--threads` spell them.
        batch_size, window, steps: of the burst.
        cost: of an estimate, computed from the calls' medians, in the budget's unit.
        as_usual: the bundle's own settings, so that its calibration stays valid.
    """

    case: str
    bundle: str
    engine: str
    threads: int | None
    batch_size: int
    window: int
    steps: int
    cost: float
    as_usual: bool

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def as_case(self, usual: BurstSettings) -> Case:
        """Return it as something to measure."""
        shape = replace(usual, batch_size=self.batch_size, window=self.window)
        return Case(self.bundle, self.engine, self.threads, measurable(shape), (self.steps,))

    @property
    def options(self) -> str:
        """What `edgewf calibrate` and `edgewf monitor` take to run this burst."""
        threads = "" if self.threads is None else f" --threads {self.threads}"
        return (
            f"--engine {self.engine}{threads} --batch-size {self.batch_size} "
            f"--window {self.window} --steps {self.steps}"
        )


def check_sensors(budget: Budget) -> None:
    """Refuse a budget of energy where no energy can be measured.

    Raises:
        EdgewfError: says where it can.
    """
    if budget.unit == "J" and not power_sources(nvml=Nvml.open()):
        raise EdgewfError(
            f"a budget of {budget}: no sensor tells the energy here; on a Jetson it can be read, "
            "on x86 by root, on other GPUs through NVML; give a time such as 2s instead"
        )


def smaller_too(usual: Sequence[BurstSettings]) -> list[int]:
    """Return batch sizes to choose from: the usual ones, their halves and quarters."""
    return sorted({max(2, s.batch_size // d) for s in usual for d in (1, 2, 4)}, reverse=True)


def propose(
    budget: Budget, cases: Sequence[dict[str, Any]], usual: Mapping[str, BurstSettings]
) -> list[Proposal]:
    """Return the best burst of each case, the best of all first.

    The usual settings win if they fit, because they need no new calibration. Else more frames
    win, up to the usual window, as the sampling error falls with them; then more steps, up to
    the usual number; then a batch size near the usual one; then the lower cost.

    Args:
        budget: of a whole estimate.
        cases: of a result of `edgewf bench`.
        usual: settings by bundle folder.

    Raises:
        EdgewfError: nothing fits, or the estimates were too short to tell their energy.
    """
    best, cheapest = [], []
    for case in cases:
        if "error" in case:
            continue
        found = list(_bursts(budget, case, usual[case["case"]["bundle"]]))
        cheapest.append(min(found, key=lambda p: p.cost))
        fitting = [p for p in found if p.cost <= budget.amount]
        if fitting:
            best.append(max(fitting, key=lambda p: _worth(p, usual[p.bundle])))
    if not best:
        least = min(cheapest, key=lambda p: p.cost)
        raise EdgewfError(
            f"no burst fits {budget}: the smallest that was measured ({least.case}, "
            f"{least.window} frames, {least.steps} steps) costs "
            f"{amount_text(least.cost, budget.unit)}; give more, a smaller --batch-size, or a "
            "smaller model"
        )
    return sorted(best, key=lambda p: _worth(p, usual[p.bundle]), reverse=True)


def amount_text(amount: float, unit: str) -> str:
    """Write seconds or joules as a person reads them."""
    return f"{1e3 * amount:.3g} m{unit}" if amount < 1 else f"{amount:.3g} {unit}"


def _bursts(budget: Budget, case: dict[str, Any], usual: BurstSettings) -> Iterator[Proposal]:
    order = case["case"]
    batch = order["settings"]["batch_size"]
    price = _price(budget, case)
    most = max(_SMALLEST_WINDOW, round(usual.window / batch))
    for batches in range(_SMALLEST_WINDOW, most + 1):
        for steps in range(usual.steps + 1):
            shape = batch, batches * batch, steps
            usual_shape = usual.batch_size, usual.window, usual.steps
            yield Proposal(
                case=label(case),
                bundle=order["bundle"],
                engine=order["engine"],
                threads=order["threads"],
                batch_size=batch,
                window=batches * batch,
                steps=steps,
                cost=price * _seconds(case, batches, steps),
                as_usual=shape == usual_shape,
            )


def _seconds(case: dict[str, Any], batches: int, steps: int) -> float:
    """Return what the calls of a burst take; without steps labels are not taken again."""
    p50 = {name: s["p50"] for name, s in case["seconds"].items()}
    last = p50["probe"] if steps else 0.0
    return float(batches * (p50["record"] + last) + steps * p50["step"])


def _price(budget: Budget, case: dict[str, Any]) -> float:
    """Return what a second of an estimate's calls costs in the budget's unit.

    It makes the calls add up to the estimates that were measured whole: what lies between the
    calls, and on a GPU what overlaps, is shared out among them.
    """
    settings = case["case"]["settings"]
    batches = settings["window"] // settings["batch_size"]
    prices: list[float] = []
    for estimate in case["estimates"]:
        whole = budget.cost(estimate)
        if whole is None:
            raise EdgewfError(
                f"a budget of {budget}: {label(case)} ran too shortly for its energy to be "
                "measured: give more --seconds"
            )
        prices.append(whole / _seconds(case, batches, estimate["steps"]))
    return max(prices)


def _worth(proposal: Proposal, usual: BurstSettings) -> tuple[float, ...]:
    batch = usual.batch_size
    near = min(proposal.batch_size, batch) / max(proposal.batch_size, batch)
    return (
        float(proposal.as_usual),
        proposal.window,
        proposal.steps,
        near,
        -proposal.cost,
    )
