"""Temperature, throttling and power mode, read from copies of the files of two boards."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewf.jetson import Board, BoardState
from tests.boards import change, write_board

ZONE = "sys/class/thermal/thermal_zone"
COOLER = "sys/class/thermal/cooling_device"


def test_an_orin_is_read(tmp_path: Path) -> None:
    board = Board(write_board("orin", tmp_path))
    assert board.read() == BoardState(temperature=51.5, throttled=False, power_mode="MODE_30W")
    assert board.passive_trip == 99.0


def test_a_xavier_is_read_without_the_zone_that_is_no_sensor(tmp_path: Path) -> None:
    board = Board(write_board("xavier", tmp_path))
    assert board.read() == BoardState(temperature=46.0, throttled=False, power_mode="3")
    assert board.passive_trip == 86.0


@pytest.mark.parametrize("device", [1, 2, 3, 4])
def test_each_device_that_slows_an_orin_down_counts(tmp_path: Path, device: int) -> None:
    board = Board(write_board("orin", tmp_path))
    change(tmp_path, f"{COOLER}{device}/cur_state", "1")
    assert board.read().throttled
    change(tmp_path, f"{COOLER}{device}/cur_state", "0")
    assert board.read().throttled is False


def test_a_fan_slows_nothing_down(tmp_path: Path) -> None:
    board = Board(write_board("orin", tmp_path))
    change(tmp_path, f"{COOLER}0/cur_state", "4")
    assert board.read().throttled is False


def test_a_counter_of_over_current_counts_while_it_rises(tmp_path: Path) -> None:
    board = Board(write_board("orin", tmp_path))
    change(tmp_path, "sys/class/hwmon/hwmon2/oc3_event_cnt", "9")
    assert board.read().throttled
    assert board.read().throttled is False


def test_the_power_mode_is_read_again_each_time(tmp_path: Path) -> None:
    board = Board(write_board("orin", tmp_path))
    change(tmp_path, "var/lib/nvpmodel/status", "pmode:0000 fmode:quiet")
    assert board.read().power_mode == "MAXN"


def test_zones_that_go_away_are_passed_over(tmp_path: Path) -> None:
    board = Board(write_board("orin", tmp_path))
    for number in (0, 8):
        (tmp_path / f"{ZONE}{number}/temp").unlink()
    assert board.read().temperature == 48.937


def test_a_machine_without_any_of_it_says_so(tmp_path: Path) -> None:
    board = Board(tmp_path)
    assert board.read() == BoardState(temperature=None, throttled=None, power_mode=None)
    assert board.passive_trip is None


def test_this_machine_can_be_read() -> None:
    temperature = Board().read().temperature
    assert temperature is None or -50 < temperature < 150
