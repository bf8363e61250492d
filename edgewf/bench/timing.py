"""Repeating what is measured, in turn, until the medians stand still."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from edgewf.bench.statistics import Summary

Durations = dict[str, float]
"""Seconds by name; the first is the whole, others are parts of it."""

FEWEST = 10
"""Samples before a median may count as stable."""

ENOUGH = 100
"""Samples that are taken of a stable call, if there is time: fewer have no 99th percentile."""


def in_turn(
    calls: Mapping[str, Callable[[], Durations]],
    seconds: float,
    progress: Callable[[float], None] = lambda share: None,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Run each call once a round, so that a change of clock or load meets all alike.

    Args:
        calls: each returns what it took.
        seconds: in all, after which no further round begins; two rounds are run in any case.
        progress: called with the share of `seconds` that is over, after each round.
        warm_up: calls of each that do not count.

    Returns:
        Samples by the names that the calls return. A call is left out of further rounds once
        its whole is stable and it had its share of the time, or has `ENOUGH` samples.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    samples: dict[str, list[float]] = {}
    going = dict(calls)
    begin = time.perf_counter()
    rounds = 0
    while going and (rounds < 2 or time.perf_counter() - begin < seconds):
        rounds += 1
        for name, call in list(going.items()):
            durations = call()
            for part, value in durations.items():
                samples.setdefault(part, []).append(value)
            whole = samples[next(iter(durations))]
            had_its_share = rounds >= ENOUGH or sum(whole) >= seconds / len(calls)
            if rounds >= FEWEST and had_its_share and Summary.of(whole).stable:
                del going[name]
        progress(min(1.0, (time.perf_counter() - begin) / seconds))
    return samples
