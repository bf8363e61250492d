"""When an alert goes on and off, and what its hook gets."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewf.errors import EdgewfError
from edgewf.telemetry import alerts
from edgewf.telemetry.alerts import HYSTERESIS, AlertBelow
from tests.states import ESTIMATE

BASE = replace(ESTIMATE, interval=(60.0, 80.0))

HOOK = """\
import json, os, sys
record = json.loads(sys.stdin.read())
variables = {name: value for name, value in os.environ.items() if name.startswith("EDGEWF_")}
with open(sys.argv[1], "a") as log:
    log.write(json.dumps({"record": record, "variables": variables, "args": sys.argv[2:]}) + "\\n")
"""


def states(threshold: float, accuracies: list[float | None]) -> list[bool]:
    alert = AlertBelow(threshold)
    result = []
    for accuracy in accuracies:
        alert.estimate(replace(BASE, accuracy=accuracy))
        result.append(alert.on)
    alert.close()
    return result


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    path = tmp_path / "a hook.py"
    path.write_text(HOOK)
    return path


def python(*arguments: str | Path) -> str:
    return shlex.join([sys.executable, *map(str, arguments)])


def test_on_below_the_threshold_off_when_clearly_back() -> None:
    accuracies = [60.0, 59.9, 60.0, 61.9, 59.0, 62.0, 60.0, 59.9]
    assert states(60.0, list(accuracies)) == [False, True, True, True, True, False, False, True]


def test_no_accuracy_changes_nothing() -> None:
    assert states(60.0, [None, 50.0, None, 70.0, None]) == [False, True, True, False, False]
    alert = AlertBelow(100.0)
    alert.estimate(replace(BASE, accuracy=None, interval=None))
    assert not alert.fired


def test_a_perfect_model_leaves_even_the_highest_threshold() -> None:
    assert states(100.0, [99.9, 100.0]) == [True, False]


@given(st.floats(0, 100), st.lists(st.floats(0, 100), max_size=12))
def test_the_state_is_that_of_the_last_accuracy_outside_the_band(
    threshold: float, accuracies: list[float]
) -> None:
    upper = min(threshold + HYSTERESIS, 100.0)
    expected, state = [], False
    for accuracy in accuracies:
        if accuracy < threshold or accuracy >= upper:
            state = accuracy < threshold
        expected.append(state)
    assert states(threshold, list(accuracies)) == expected


def test_fired_outlives_the_alert() -> None:
    alert = AlertBelow(60.0)
    assert not alert.fired
    alert.estimate(replace(BASE, accuracy=50.0))
    alert.estimate(replace(BASE, accuracy=90.0))
    alert.close()
    assert (alert.on, alert.fired) == (False, True)


def test_the_hook_runs_at_changes_only_with_the_estimate(
    tmp_path: Path, hook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEWF_DATA", raising=False)  # the tests' own
    log = tmp_path / "log"
    # The last argument would be two words, or a command, if a shell read it.
    alert = AlertBelow(60.5, python(hook, log, "$(id); a b"))
    estimates = [replace(BASE, accuracy=x) for x in (70.0, 50.25, 40.0, 70.0, 71.0)]
    for estimate in estimates:
        alert.estimate(estimate)
    alert.close()
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert [call["record"] for call in calls] == [estimates[1].to_json(), estimates[3].to_json()]
    assert [call["variables"] for call in calls] == [
        {"EDGEWF_ACCURACY": "50.25", "EDGEWF_THRESHOLD": "60.5", "EDGEWF_STATE": "on"},
        {"EDGEWF_ACCURACY": "70.0", "EDGEWF_THRESHOLD": "60.5", "EDGEWF_STATE": "off"},
    ]
    assert [call["args"] for call in calls] == 2 * [["$(id); a b"]]


def test_a_failing_hook_is_a_warning_with_its_words(
    capfd: pytest.CaptureFixture[str],
) -> None:
    alert = AlertBelow(60.0, python("-c", "print('hello'); import sys; sys.exit('no network')"))
    alert.estimate(replace(BASE, accuracy=50.0))
    alert.close()
    output = capfd.readouterr()
    assert output.out == ""  # stdout may carry records
    assert output.err.count("\n") == 1
    assert "ended with status 1; it said: no network" in output.err
    assert alert.on


def test_a_good_hook_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    alert = AlertBelow(60.0, python("-c", "print('sent')"))  # and does not read its stdin
    alert.estimate(replace(BASE, accuracy=50.0))
    alert.close()
    assert capfd.readouterr() == ("", "")


def test_a_missing_program_is_a_warning_before_and_when_it_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alert = AlertBelow(60.0, f"{tmp_path}/no-such-hook --now")
    assert "no-such-hook --now: no such program" in capsys.readouterr().err
    alert.estimate(replace(BASE, accuracy=50.0))
    alert.close()
    assert "No such file or directory" in capsys.readouterr().err
    assert alert.on


def test_a_hanging_hook_is_killed_with_its_children_and_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alerts, "HOOK_TIMEOUT_S", 1.0)
    pids = tmp_path / "pids"
    alert = AlertBelow(60.0, f"sh -c 'sleep 300 & echo $$ $! > {pids}; echo stuck; wait'")
    alert.estimate(replace(BASE, accuracy=50.0))
    alert.estimate(replace(BASE, accuracy=90.0))  # returns although the first hook hangs
    assert not alert.on
    alert.close()
    err = capfd.readouterr().err
    assert err.count("killed, because it took longer than 1 s; it said: stuck") == 2
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


def is_gone(pid: int) -> bool:
    """Wait a little: a killed orphan stays until its new parent has noticed."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_hook_that_leaves_a_child_behind_is_not_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alerts, "HOOK_TIMEOUT_S", 1.0)
    done = tmp_path / "done"
    alert = AlertBelow(60.0, f"sh -c '(sleep 1.5; touch {done}) &'")
    alert.estimate(replace(BASE, accuracy=50.0))
    alert.close()
    assert capfd.readouterr().err == ""
    deadline = time.monotonic() + 10
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert done.exists()


@pytest.mark.parametrize("threshold", [-0.1, 100.1, float("nan")])
def test_a_threshold_is_a_percentage(threshold: float) -> None:
    with pytest.raises(EdgewfError, match="0 to 100"):
        AlertBelow(threshold)


@pytest.mark.parametrize(("hook", "message"), [("", "empty"), ("echo 'a", "check its quotes")])
def test_a_hook_that_cannot_be_split_is_refused(hook: str, message: str) -> None:
    with pytest.raises(EdgewfError, match=message):
        AlertBelow(60.0, hook)
