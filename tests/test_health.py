"""What a monitor says of itself, and what a probe makes of it."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgewf import status_file
from edgewf.cli import main
from edgewf.errors import EdgewfError
from edgewf.health import Health, resident_bytes, source_problems
from edgewf.status_file import STALE_S, StatusFile, probe
from tests.states import ESTIMATE, WELL


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A status file of a monitor that is well."""
    path = tmp_path / "status.json"
    StatusFile(path).health(WELL)
    return path


def check(path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["monitor", "--check", str(path)], prog_name="edgewf")
    return result.exit_code, result.output


def test_health_survives_json() -> None:
    health = replace(WELL, duty=None, power_mode="MODE_30W", throttled=True, problems=("a", "b"))
    assert Health.from_json(json.loads(json.dumps(health.to_json()))) == health


def test_resident_memory_is_read_from_linux(tmp_path: Path) -> None:
    assert resident_bytes() > 10_000_000
    assert resident_bytes(tmp_path / "statm") == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "reconnecting"}, ["the source is gone"]),
        ({"state": "stalled"}, ["no frame has come for 12 s"]),
        ({"state": "stalled", "last_frame": None}, ["no frame has come: check"]),
        ({"frozen": True}, ["the picture has not changed"]),
        ({"black": True, "frozen": True}, ["has not changed", "the picture is black"]),
        ({"state": "reconnecting", "message": "401 Unauthorized"}, [r"\(401 Unauthorized\)"]),
        ({"state": "starting"}, []),
        ({"state": "ended"}, []),
        ({}, []),
    ],
)
def test_each_trouble_of_a_source_is_a_sentence(
    changes: dict[str, object], words: list[str]
) -> None:
    source = replace(WELL.source, **changes)  # type: ignore[arg-type]
    found = source_problems(source, now=WELL.time + 12)
    assert len(found) == len(words)
    for sentence, expected in zip(found, words, strict=True):
        assert re.search(expected, sentence)


def test_a_probe_of_a_monitor_that_is_well(path: Path) -> None:
    assert check(path) == (0, "well: 260 frames, 1 estimates\n")


def test_a_probe_tells_the_last_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    keeper = StatusFile(path)
    keeper.estimate(ESTIMATE)
    keeper.health(WELL)
    assert check(path) == (0, "well: 260 frames, 1 estimates, accuracy 70.0 %\n")


def test_a_probe_tells_every_problem(path: Path) -> None:
    StatusFile(path).health(replace(WELL, problems=("the picture is black", "it is hot")))
    assert check(path) == (1, "the picture is black; it is hot\n")


def test_a_probe_of_no_monitor_says_what_to_look_for(path: Path) -> None:
    StatusFile(path).close()
    code, words = check(path)
    assert code == 1
    assert f"--status {path}" in words


@pytest.mark.parametrize(("age", "well"), [(STALE_S - 5, True), (STALE_S + 5, False)])
def test_a_state_speaks_for_its_monitor_for_half_a_minute(
    path: Path, age: float, well: bool
) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "uptime": record["uptime"] - age}))
    assert probe(path)[0] == well


def test_setting_the_clock_makes_no_state_old(path: Path) -> None:
    record = json.loads(path.read_text())
    record["health"]["time"] = 0.0
    path.write_text(json.dumps(record))
    assert probe(path)[0]


def test_a_state_from_before_the_last_boot_is_old(path: Path) -> None:
    path.write_text(path.read_text().replace(status_file._boot(), "another"))
    assert probe(path) == (False, "the monitor was last heard of before the last boot")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"health": {}}', "\xff"])
def test_what_is_no_status_is_refused(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    code, words = check(path)
    assert code == 2
    assert re.fullmatch(rf"edgewf: {path} is no status of a monitor: [^\n]+\n", words)


def test_a_status_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(EdgewfError, match="no folder"):
        StatusFile(tmp_path / "missing" / "status.json")


def test_a_full_disk_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    keeper = StatusFile(tmp_path / "status.json")
    with monkeypatch.context() as patch:
        patch.setattr("edgewf.status_file.write_text", full)
        with pytest.raises(EdgewfError, match=r"status\.json: No space left on device"):
            keeper.health(WELL)
    keeper.health(WELL)
    assert probe(tmp_path / "status.json")[0]
