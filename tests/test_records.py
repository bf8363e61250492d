"""JSON Lines: every line whole, whatever happened before."""

from __future__ import annotations

import json
import os
import resource
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.telemetry.records import JsonLines
from tests.states import ESTIMATE, WELL


def an_estimate(accuracy: float | None = 71.25, source: str = "demo") -> Estimate:
    return replace(
        ESTIMATE,
        accuracy=accuracy,
        interval=None if accuracy is None else (accuracy - 5.0, accuracy + 5.0),
        flags=("few samples selected",),
        source=source,
    )


def test_one_object_a_line_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records = JsonLines(path)
    for accuracy in (71.25, None):
        records.estimate(an_estimate(accuracy))
        # Before the file is closed: another program may follow it.
        assert json.loads(path.read_text().splitlines()[-1]) == an_estimate(accuracy).to_json()
    records.close()
    assert len(path.read_text().splitlines()) == 2


def test_a_second_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for accuracy in (70.0, 60.0):
        records = JsonLines(path)
        records.estimate(an_estimate(accuracy))
        records.close()
    assert [json.loads(line)["accuracy"] for line in path.read_text().splitlines()] == [70.0, 60.0]


LINE = json.dumps(an_estimate().to_json()).encode() + b"\n"


@given(cut=st.integers(1, len(LINE)))
def test_a_torn_last_line_spoils_no_other(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "records.jsonl"
    path.write_bytes(LINE + LINE[:cut])
    records = JsonLines(path)
    records.estimate(an_estimate(12.5))
    records.close()
    lines = path.read_bytes().splitlines()
    assert lines[:2] == [LINE[:-1], LINE[: min(cut, len(LINE) - 1)]]
    assert [json.loads(line)["accuracy"] for line in lines[2:]] == [12.5]


def test_text_from_outside_cannot_break_a_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records = JsonLines(path)
    records.estimate(an_estimate(source="a\nb\u2028ü.mp4"))
    records.close()
    assert path.read_bytes().count(b"\n") == 1
    assert json.loads(path.read_bytes())["source"] == "a\nb\u2028ü.mp4"


def test_stdout_gets_the_lines_and_stays_open(capsys: pytest.CaptureFixture[str]) -> None:
    records = JsonLines()
    records.estimate(an_estimate())
    records.close()
    print("still open")
    line, after = capsys.readouterr().out.splitlines()
    assert json.loads(line) == an_estimate().to_json()
    assert after == "still open"


def test_a_pipe_can_take_the_records(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    records = JsonLines(path)
    records.estimate(an_estimate())
    records.close()
    reader.join(10)
    assert json.loads(received[0]) == an_estimate().to_json()


@pytest.mark.parametrize("name", ["missing/records.jsonl", "."])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(EdgewfError, match=f"cannot append to {tmp_path}"):
        JsonLines(tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_is_named_and_closing_tells_what_is_lost() -> None:
    records = JsonLines("/dev/full")
    for waiting in (1, 2):
        with pytest.raises(EdgewfError, match=rf"/dev/full: No space left.*; {waiting} estimates"):
            records.estimate(an_estimate())
    with pytest.raises(EdgewfError, match="2 estimates wait"):
        records.close()


def test_what_a_full_disk_did_not_take_is_written_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records = JsonLines(path)
    records.estimate(an_estimate(1.0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The second line stops in its middle.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
        for accuracy in (2.0, 3.0):
            with pytest.raises(EdgewfError, match="File too large"):
                records.estimate(an_estimate(accuracy))
        assert not path.read_bytes().endswith(b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    records.health(WELL)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["accuracy"] for line in lines] == [1.0, 2.0, 3.0]
    records.close()
