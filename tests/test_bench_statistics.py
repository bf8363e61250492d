"""What samples say: quantiles, intervals, when to stop, and what a difference is worth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewf.bench.statistics import Summary, ratio_interval, student_t
from edgewf.bench.timing import FEWEST, in_turn

DURATIONS = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200)


@given(DURATIONS)
def test_a_summary_is_ordered_and_says_what_it_cannot_know(samples: list[float]) -> None:
    s = Summary.of(samples)
    assert min(samples) <= s.p50 <= max(samples)
    assert (s.p90 is None) == (len(samples) < 10)
    assert (s.p99 is None) == (len(samples) < 100)
    assert (s.median_interval is None) == (len(samples) < 6)
    known = [x for x in (s.p50, s.p90, s.p99) if x is not None]
    assert known == sorted(known)
    if s.median_interval is not None:
        assert s.median_interval[0] <= s.p50 <= s.median_interval[1]


def test_the_intervals_cover_what_they_should() -> None:
    """Of a skewed distribution, as latencies have it."""
    rng = np.random.default_rng(0)
    draws = [Summary.of(rng.lognormal(0, 0.5, 40)) for _ in range(1000)]
    medians = [s.median_interval for s in draws if s.median_interval is not None]
    assert len(medians) == 1000
    assert 0.94 <= np.mean([low <= 1 <= high for low, high in medians]) <= 0.99
    mean = math.exp(0.125)
    means = [s.mean_interval for s in draws if s.mean_interval is not None]
    assert 0.90 <= np.mean([low <= mean <= high for low, high in means]) <= 0.97


def test_a_median_is_stable_when_its_interval_is_narrow() -> None:
    assert Summary.of([1.0, 1.001] * 10).stable
    assert not Summary.of([1.0, 1.2] * 10).stable
    assert not Summary.of([1.0] * 5).stable, "too few to know"


def test_of_equal_runs_few_seem_to_differ() -> None:
    """Rounds lie further apart than the samples of each, as on a machine that others use."""
    rng = np.random.default_rng(1)

    def run(factor: float) -> list[list[float]]:
        return [(factor * rng.lognormal(rng.normal(0, 0.1), 0.02, 20)).tolist() for _ in range(3)]

    found = [ratio_interval(run(1.0), run(1.0)) for _ in range(400)]
    false = np.mean([not x[1] <= 1 <= x[2] for x in found if x is not None])
    assert false < 0.08
    twice = [ratio_interval(run(1.0), run(2.0)) for _ in range(50)]
    assert np.mean([x[1] > 1 for x in twice if x is not None]) > 0.9
    assert np.median([x[0] for x in twice if x is not None]) == pytest.approx(2.0, rel=0.1)


def test_single_rounds_cannot_be_compared() -> None:
    assert ratio_interval([[1.0, 1.1]], [[1.0], [1.0]]) is None


def test_rounds_that_agree_exactly_leave_the_uncertainty_within_them() -> None:
    found = ratio_interval([[1.0, 1.1, 0.9, 1.0, 1.05, 0.95]] * 2, [[2.0] * 6] * 2)
    assert found is not None
    ratio, low, high = found
    assert low < ratio < high
    assert ratio == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(("freedom", "t"), [(1.0, 12.706), (2.9, 4.303), (20, 2.086), (99, 2.086)])
def test_students_t(freedom: float, t: float) -> None:
    assert student_t(freedom) == t


def test_calls_take_turns_after_a_warm_up() -> None:
    said: list[str] = []

    def call(name: str) -> dict[str, float]:
        said.append(name)
        return {name: 1.0, f"{name} part": 0.5}

    samples = in_turn({"a": lambda: call("a"), "b": lambda: call("b")}, 0.5, warm_up=1)
    assert said[:2] == ["a", "b"], "the warm-up"
    assert said[2:] == ["a", "b"] * FEWEST, "stable, and had their share of the time"
    assert {name: len(x) for name, x in samples.items()} == dict.fromkeys(
        ("a", "a part", "b", "b part"), FEWEST
    )


def test_an_unstable_call_goes_on_when_another_is_done() -> None:
    wild = itertools.cycle([1.0, 2.0, 3.0])
    samples = in_turn({"calm": lambda: {"calm": 1.0}, "wild": lambda: {"wild": next(wild)}}, 0.05)
    assert len(samples["calm"]) == FEWEST
    assert len(samples["wild"]) > FEWEST


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-4, 1e-2))
def test_two_rounds_are_run_however_little_time_there_is(length: float) -> None:
    assert len(in_turn({"a": lambda: {"a": length}}, 1e-9)["a"]) == 2
