"""Estimates that rise where the truth falls are found, and told from noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.blind_spot import Cell, inversions, main, read_cells, summary, table

ACCURACIES = st.lists(st.integers(0, 100), min_size=2, max_size=20, unique=True)


def cells(truths: Sequence[float], estimates: Sequence[float], sd: float = 2.0) -> list[Cell]:
    pairs = enumerate(zip(truths, estimates, strict=True))
    return [Cell(f"cell {i}", truth, estimate, sd, sd) for i, (truth, estimate) in pairs]


@given(ACCURACIES)
def test_estimates_in_the_order_of_the_truth_have_no_inversion(truths: list[int]) -> None:
    assert inversions(cells(truths, [x / 2 + 10 for x in truths])) == []


@given(ACCURACIES)
def test_estimates_against_the_truth_are_inverted_in_every_pair(truths: list[int]) -> None:
    found = inversions(cells(truths, [100 - x for x in truths]))
    assert len(found) == len(truths) * (len(truths) - 1) // 2
    assert [x.z for x in found] == sorted((x.z for x in found), reverse=True)


def test_a_worst_window_that_looks_best_is_beyond_noise() -> None:
    """Nothing passes the filter at 8 %, no label flips, and the estimate is the best there is."""
    row = summary(cells([70, 60, 40, 8], [69, 61, 41, 70]))
    assert (row["inversions"], row["beyond_noise"]) == (3, 2)
    assert row["worst"].better.truth in (60, 40)
    assert row["worst"].worse.truth == 8
    assert row["highest_of_low"].estimate == 70


def test_a_small_inversion_is_noise() -> None:
    row = summary(cells([70, 60, 59], [69, 60, 61]))
    assert (row["inversions"], row["beyond_noise"]) == (1, 0)
    assert row["worst"].z == pytest.approx(1 / 8**0.5)
    assert "| x | 3 | 3 | 1 | 0 |" in table({"x": row})[-1]


def test_other_kinds_of_windows_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "held_out.csv"
    path.write_text(
        "kind,shift,severity,truth,estimate,low,high,sd\n"
        "corruptions,fog,2,50,48,44.71,51.29,2\n"
        "pairs,fog+snow,3,20,30,25,35,3\n"
        "corruptions,fog,5,0,4,0,90,4\n"
    )
    first, second = read_cells(path, 100)
    assert (first.name, first.truth, first.estimate) == ("fog 2", 50, 48)
    assert first.truth_sd == pytest.approx(5)
    assert second.truth_sd == pytest.approx(1)
    # An interval that few predicted classes widen hides no blind spot.
    assert (first.estimate_sd, second.estimate_sd) == (2, 4)


def test_a_table_without_its_settings_is_refused_in_a_line(tmp_path: Path) -> None:
    found, report = tmp_path / "held_out.csv", tmp_path / "report.md"
    found.write_text("kind\n")
    done = CliRunner().invoke(main, [str(found), "--output", str(report)])
    assert done.exit_code == 2
    assert done.stderr == f"edgewf: {tmp_path}/held_out.json: No such file or directory\n"
    assert not report.exists()
