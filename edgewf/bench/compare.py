"""Results side by side: ratios, and whether a difference is more than noise.

A difference counts if the interval of the ratio leaves 1 out, see
`edgewf.bench.statistics.ratio_interval`; of equal pairs one in twenty does so by chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgewf.bench.parts import STEP_PARTS
from edgewf.bench.result import WHOLES, label
from edgewf.bench.statistics import ratio_interval
from edgewf.errors import EdgewfError


@dataclass(frozen=True)
class Difference:
    """One measurement in two results.

    Attributes:
        case: its label in the earlier result.
        later_case: its label in the later one; another where engine or threads differ.
        measurement: such as "step".
        before, after: medians, in seconds.
        ratio: after / before, of the geometric means of the round medians.
        interval: 95 % interval of the ratio; None where a result has a single round.
        beyond_noise: whether the difference counts; None without an interval.
    """

    case: str
    later_case: str
    measurement: str
    before: float
    after: float
    ratio: float
    interval: tuple[float, float] | None
    beyond_noise: bool | None


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    """Compare the cases that two results have in common.

    Cases match by model, precision, batch size, engine and threads. Where no case matches so,
    engine and threads are left out, so that devices with different engines can be compared.

    Raises:
        EdgewfError: they have nothing in common, or a model has other weights in each.
    """
    earlier, later = (_measured(record) for record in (before, after))
    for key in (_exactly, _loosely):
        known = {key(case): case for case in earlier}
        pairs = [(known[key(case)], case) for case in later if key(case) in known]
        if pairs:
            return [x for a, b in pairs for x in _differences(a, b)]
    names = [", ".join(sorted({label(c) for c in cases})) for cases in (earlier, later)]
    raise EdgewfError(
        f"the results have no case in common ({names[0]} against {names[1]}): measure the same "
        "model with the same batch size"
    )


def to_json(
    names: Sequence[str], differences: Sequence[Sequence[Difference]]
) -> list[dict[str, Any]]:
    """Return comparisons of the first named result with each other one as JSON values."""
    return [
        {"before": names[0], "after": name, "differences": [asdict(x) for x in found]}
        for name, found in zip(names[1:], differences, strict=True)
    ]


def _measured(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [case for case in record["cases"] if "error" not in case]


def _loosely(case: dict[str, Any]) -> tuple[Any, ...]:
    return case["fingerprint"], case["precision"], case["case"]["settings"]["batch_size"]


def _exactly(case: dict[str, Any]) -> tuple[Any, ...]:
    return (*_loosely(case), case["case"]["engine"], case["case"]["threads"])


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[Difference]:
    rounds = before["rounds"], after["rounds"]
    found = []
    for name in ("preprocessing", *WHOLES, *STEP_PARTS):
        if all(name in r["seconds"] for part in rounds for r in part):
            samples = ([r["seconds"][name] for r in part] for part in rounds)
            found.append(_difference(before, after, name, *samples))
    indexes = [
        {_estimate_key(case, x): i for i, x in enumerate(case["estimates"])}
        for case in (before, after)
    ]
    for key in indexes[0].keys() & indexes[1].keys():
        estimates = (
            [r["estimates"][index[key]]["seconds"] for r in part]
            for part, index in zip(rounds, indexes, strict=True)
        )
        name = f"estimate of {key[0]} frames, {key[1]} steps"
        found.append(_difference(before, after, name, *estimates))
    return found


def _estimate_key(case: dict[str, Any], estimate: dict[str, Any]) -> tuple[int, int]:
    return case["case"]["settings"]["window"], estimate["steps"]


def _difference(
    before: dict[str, Any],
    after: dict[str, Any],
    name: str,
    earlier: Sequence[Sequence[float]],
    later: Sequence[Sequence[float]],
) -> Difference:
    found = ratio_interval(earlier, later)
    medians = [statistics.median(x for part in rounds for x in part) for rounds in (earlier, later)]
    return Difference(
        case=label(before),
        later_case=label(after),
        measurement=name,
        before=medians[0],
        after=medians[1],
        ratio=medians[1] / medians[0] if found is None else found[0],
        interval=None if found is None else (found[1], found[2]),
        beyond_noise=None if found is None else not found[1] <= 1 <= found[2],
    )
