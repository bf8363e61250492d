"""When alerts go on and off, how often that is told, and what hooks and webhooks get."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewf.alerts import AlertBelow, Alerter, AlertOnChange, AlertUnhealthy, Hook, Webhook
from edgewf.alerts import hook as hooks
from edgewf.alerts import webhook as webhooks
from edgewf.alerts.alerter import State
from edgewf.alerts.message import Delivery, Message
from edgewf.alerts.rules import HYSTERESIS, PAST
from edgewf.alerts.secrets import secret
from edgewf.alerts.webhook import signature
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from tests.receiver import Receiver
from tests.states import ESTIMATE, WELL

BASE = replace(ESTIMATE, interval=(60.0, 80.0))
MESSAGE = Message(
    id="5f0c", rule="below", on=True, since=1.0, text="low", time=2.0, suppressed=0,
    model="m", source="s", threshold=60.0, estimate=None,
)  # fmt: skip

HOOK = """\
import json, os, sys
record = json.loads(sys.stdin.read())
variables = {name: value for name, value in os.environ.items() if name.startswith("EDGEWF_")}
with open(sys.argv[1], "a") as log:
    log.write(json.dumps({"record": record, "variables": variables, "args": sys.argv[2:]}) + "\\n")
"""


class Kept:
    """Keeps the messages; while `held`, the first does not end."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.free = threading.Event()
        self.free.set()

    def send(self, message: Message) -> None:
        self.free.wait(30)
        self.messages.append(message)

    def close(self) -> None:
        self.free.set()


def below(threshold: float, *deliveries: Delivery) -> Alerter:
    return Alerter([AlertBelow(threshold)], deliveries, "m", "s", pause=0.0)


def told(alerter: Alerter, *accuracies: float | None) -> None:
    for accuracy in accuracies:
        alerter.estimate(replace(BASE, accuracy=accuracy))


def states(threshold: float, accuracies: list[float | None]) -> list[bool]:
    rule = AlertBelow(threshold)
    result = []
    for accuracy in accuracies:
        rule.estimate(replace(BASE, accuracy=accuracy))
        result.append(rule.on)
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
    alerter = below(100.0)
    alerter.estimate(replace(BASE, accuracy=None, interval=None))
    alerter.close()
    assert not alerter.fired


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
    alerter = below(60.0)
    assert not alerter.fired
    told(alerter, 50.0, 90.0)
    alerter.close()
    assert alerter.fired
    assert [state.on for state in alerter.state] == [False]


def test_the_hook_runs_at_changes_only_with_the_message(
    tmp_path: Path, hook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEWF_DATA", raising=False)  # the tests' own
    log = tmp_path / "log"
    # The last argument would be two words, or a command, if a shell read it.
    alerter = below(60.5, Hook(python(hook, log, "$(id); a b")))
    told(alerter, 70.0, 50.25, 40.0, 70.0, 71.0)
    alerter.close()
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert [call["record"]["estimate"]["accuracy"] for call in calls] == [50.25, 70.0]
    assert [call["record"]["on"] for call in calls] == [True, False]
    assert [call["variables"] for call in calls] == [
        {
            "EDGEWF_RULE": "below",
            "EDGEWF_STATE": "on",
            "EDGEWF_TEXT": "accuracy 50.2 %, below the limit of 60.5 %",
            "EDGEWF_ACCURACY": "50.25",
            "EDGEWF_THRESHOLD": "60.5",
        },
        {
            "EDGEWF_RULE": "below",
            "EDGEWF_STATE": "off",
            "EDGEWF_TEXT": "accuracy 70.0 %, above the limit of 60.5 % again",
            "EDGEWF_ACCURACY": "70.0",
            "EDGEWF_THRESHOLD": "60.5",
        },
    ]
    assert [call["args"] for call in calls] == 2 * [["$(id); a b"]]


def test_a_failing_hook_is_a_warning_with_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    command = python("-c", "print('hello'); import sys; sys.exit('no network')")
    alerter = below(60.0, Hook(command))
    told(alerter, 50.0)
    alerter.close()
    output = capfd.readouterr()
    assert output.out == ""  # stdout may carry records
    assert output.err.count("\n") == 1
    assert "ended with status 1; it said: no network" in output.err


def test_a_good_hook_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    Hook(python("-c", "print('sent')")).send(MESSAGE)  # and does not read its stdin
    assert capfd.readouterr() == ("", "")


def test_a_missing_program_is_a_warning_before_and_an_error_when_it_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = Hook(f"{tmp_path}/no-such-hook --now")
    assert "no-such-hook --now: no such program" in capsys.readouterr().err
    with pytest.raises(EdgewfError, match="No such file or directory"):
        hook.send(MESSAGE)


def test_a_hanging_hook_is_killed_with_its_children_and_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hooks, "HOOK_TIMEOUT_S", 1.0)
    pids = tmp_path / "pids"
    kept = Kept()
    command = f"sh -c 'sleep 300 & echo $$ $! > {pids}; echo stuck; wait'"
    alerter = below(60.0, Hook(command), kept)
    told(alerter, 50.0, 90.0)
    alerter.close()
    assert len(kept.messages) == 2
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
    monkeypatch.setattr(hooks, "HOOK_TIMEOUT_S", 1.0)
    done = tmp_path / "done"
    Hook(f"sh -c '(sleep 1.5; touch {done}) &'").send(MESSAGE)
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
        Hook(hook)


# --- change against the device's own past


def series(level: float, count: int, *, seed: int = 0, half: float = 10.0) -> list[Estimate]:
    """Independent estimates with a standard deviation of 3, one a minute."""
    accuracies = np.random.default_rng(seed).normal(level, 3.0, count).clip(0, 100)
    return [estimate_of(float(a), half=half, time=60.0 * i) for i, a in enumerate(accuracies)]


def estimate_of(accuracy: float, *, half: float = 10.0, time: float = 0.0) -> Estimate:
    interval = (max(0.0, accuracy - half), min(100.0, accuracy + half))
    return replace(BASE, accuracy=accuracy, interval=interval, time=time)


def when_on(rule: AlertOnChange, estimates: list[Estimate]) -> list[int]:
    found = []
    for i, estimate in enumerate(estimates):
        rule.estimate(estimate)
        if rule.on:
            found.append(i)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_change(seed: int) -> None:
    # As wide as the noise: the interval does not make the rule deaf.
    assert when_on(AlertOnChange(), series(78.0, 2000, seed=seed, half=3 * 1.645)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_fall_is_seen_with_its_beginning(seed: int) -> None:
    worse = [replace(x, time=6000.0 + x.time) for x in series(63.0, 40, seed=seed + 50)]
    rule = AlertOnChange(series(78.0, 100, seed=seed))
    assert not rule.on
    first = when_on(rule, worse)[0]
    assert first <= 12
    assert rule.since is not None
    assert 6000.0 - 10 * 60 <= rule.since <= 6000.0 + 60.0
    assert "worse since 1970-01-01T01:" in rule.text
    back = when_on(rule, series(78.0, 60, seed=seed + 99))
    assert (rule.on, rule.since) == (False, None)
    assert "as usual" in rule.text
    assert back == list(range(len(back)))  # off once, not to and fro


def test_one_window_is_no_change_however_bad() -> None:
    rule = AlertOnChange(series(78.0, PAST))
    assert when_on(rule, [estimate_of(0.0), *series(78.0, 100, seed=3)]) == []


def test_what_the_interval_cannot_tell_is_no_change() -> None:
    past = series(78.0, PAST)
    assert when_on(AlertOnChange(past), series(70.0, 200, half=60.0)) == []
    assert when_on(AlertOnChange(past), series(70.0, 200, half=5.0)) != []


def test_a_better_accuracy_is_no_alert() -> None:
    assert when_on(AlertOnChange(series(50.0, PAST)), series(90.0, 100)) == []


@given(
    st.lists(st.floats(0, 100), max_size=2 * PAST),
    st.lists(st.floats(0, 100), max_size=20),
)
def test_a_restart_changes_nothing(before: list[float], after: list[float]) -> None:
    made = [estimate_of(a, time=float(i)) for i, a in enumerate(before + after)]
    past, rest = made[: len(before)], made[len(before) :]
    without, restarted = AlertOnChange(), AlertOnChange(past)
    for estimate in past:
        without.estimate(estimate)
    for estimate in rest:
        without.estimate(estimate)
        restarted.estimate(estimate)
        assert (restarted.on, restarted.since) == (without.on, without.since)


def test_an_estimate_comes_back_from_its_record() -> None:
    for estimate in (ESTIMATE, replace(ESTIMATE, interval=None, true_accuracy=1.0, flags=("a",))):
        assert Estimate.from_json(json.loads(json.dumps(estimate.to_json()))) == estimate


# --- health


def test_unhealthy_for_long_and_well_for_long() -> None:
    now = 0.0
    rule = AlertUnhealthy(30.0, clock=lambda: now)
    seen = []
    for step, problem in enumerate("..xx.xxxxxxx..x......."):
        now = 10.0 * step
        problems = ("no frame has come",) if problem == "x" else ()
        rule.health(replace(WELL, time=1000.0 + now, problems=problems))
        seen.append("x" if rule.on else ".")
    assert "".join(seen) == "........xxxxxxxxxx...."
    assert rule.text == "all is well again"


def test_unhealthy_says_since_when_and_what() -> None:
    clock = itertools.count(0.0, 5.0)
    rule = AlertUnhealthy(9.0, clock=lambda: next(clock))
    for when in (100.0, 105.0, 110.0):
        rule.health(replace(WELL, time=when, problems=("black", "hot")))
    assert (rule.on, rule.since, rule.text) == (True, 100.0, "black; hot")
    assert not rule.concerns_accuracy


def test_an_unhealthy_past_goes_on() -> None:
    past = [replace(WELL, time=t, problems=("hot",)) for t in (0.0, 60.0)]
    assert AlertUnhealthy(60.0, past).on
    assert not AlertUnhealthy(61.0, past).on


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_unhealthy_seconds_are_a_duration(seconds: float) -> None:
    with pytest.raises(EdgewfError, match="0 or more"):
        AlertUnhealthy(seconds)


# --- how often


def test_no_storm_and_the_count_of_what_was_not_sent() -> None:
    now, kept = 0.0, Kept()
    alerter = Alerter([AlertBelow(60.0)], [kept], "m", "s", pause=300.0, clock=lambda: now)
    for _ in range(50):
        told(alerter, 50.0, 90.0)
        now += 1.0
    alerter.health(WELL)
    now = 299.0
    told(alerter, 50.0)
    now = 301.0
    alerter.health(WELL)  # still on, as was told: nothing to say
    told(alerter, 90.0)
    told(alerter, 50.0)
    alerter.close()
    # On, 99 that were not sent and the pause over, off, and the last word when the run ends.
    assert [(m.on, m.suppressed) for m in kept.messages] == [(True, 0), (False, 100), (True, 0)]
    assert len({m.id for m in kept.messages}) == 3


def test_what_a_pause_held_back_is_told_when_it_is_over() -> None:
    now, kept = 0.0, Kept()
    alerter = Alerter([AlertBelow(60.0)], [kept], "m", "s", pause=300.0, clock=lambda: now)
    told(alerter, 50.0, 90.0)
    now = 300.0
    alerter.health(WELL)
    alerter.close()
    assert [(m.on, m.suppressed) for m in kept.messages] == [(True, 0), (False, 0)]


def test_what_a_run_before_has_told_is_no_news() -> None:
    past = [replace(BASE, accuracy=50.0)]
    for names, expected in (({"below"}, []), (set(), [True])):
        kept = Kept()
        rule = AlertBelow(60.0, past)
        alerter = Alerter([rule], [kept], "m", "s", told=names)
        assert alerter.state == [State("below", True, BASE.time, rule.text)]
        told(alerter, 55.0)
        alerter.close()
        assert [m.on for m in kept.messages] == expected
        assert alerter.fired


def test_a_slow_delivery_delays_nobody_and_its_queue_has_an_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    slow, quick = Kept(), Kept()
    slow.free.clear()
    alerter = below(60.0, slow, quick)
    for _ in range(150):
        told(alerter, 50.0, 90.0)
    slow.free.set()
    alerter.close()
    assert len(quick.messages) <= 300
    assert 100 <= len(slow.messages) <= 101
    assert not slow.messages[-1].on
    assert "alerts were given up, because too many waited" in capsys.readouterr().err


def test_the_picture_is_sent_only_if_there_is_one() -> None:
    kept = Kept()
    alerter = below(60.0, kept)
    told(alerter, 50.0)
    alerter.take_picture = lambda: b"JPEG"
    told(alerter, 90.0)
    alerter.close()
    assert ["picture" in m.to_json() for m in kept.messages] == [False, True]
    assert kept.messages[1].to_json()["picture"] == "SlBFRw=="


# --- webhooks


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FIRST_BACKOFF_S", 0.001)


def test_a_webhook_is_signed() -> None:
    with Receiver() as receiver:
        Webhook(receiver.url, "open sesame").send(MESSAGE)
    ((headers, body),) = receiver.requests
    assert json.loads(body) == MESSAGE.to_json()
    assert headers["Content-Type"] == "application/json"
    timestamp = headers["X-Edgewf-Timestamp"]
    assert abs(time.time() - int(timestamp)) < 60
    assert headers["X-Edgewf-Signature"] == signature("open sesame", timestamp, body)
    assert signature("open sesame", timestamp, body + b" ") != headers["X-Edgewf-Signature"]


def test_the_signature_is_what_openssl_makes() -> None:
    # printf '1790000000.{"a":1}' | openssl dgst -sha256 -hmac 'open sesame'
    expected = "sha256=7a500a1c8e490e21f291567252b74f34db3d2372deb2ed0a9700ec1ce3508866"
    assert signature("open sesame", "1790000000", b'{"a":1}') == expected


def test_without_a_secret_there_is_no_signature() -> None:
    with Receiver() as receiver:
        Webhook(receiver.url).send(MESSAGE)
    assert not any(name.startswith("X-Edgewf") for name in receiver.requests[0][0])


@pytest.mark.usefixtures("hurried")
def test_a_webhook_tries_again_with_the_same_key() -> None:
    with Receiver(503, 429, 408, 500, 200) as receiver:
        Webhook(receiver.url).send(MESSAGE)
    assert [headers["Idempotency-Key"] for headers, _ in receiver.requests] == 5 * ["5f0c"]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("status", "requests"), [(400, 1), (404, 1), (410, 1), (302, 1), (307, 1), (500, 6)]
)
def test_what_another_attempt_cannot_mend_is_final(status: int, requests: int) -> None:
    with Receiver(status) as receiver, pytest.raises(EdgewfError) as error:
        Webhook(receiver.url).send(MESSAGE)
    assert f"it answered {status}" in str(error.value)
    assert "token" not in str(error.value)  # paths of webhooks are secrets
    assert len(receiver.requests) == requests


@pytest.mark.usefixtures("hurried")
def test_nobody_there() -> None:
    with Receiver() as receiver:
        url = receiver.url
    with pytest.raises(EdgewfError, match="Connection refused; the alert was not delivered"):
        Webhook(url).send(MESSAGE)


def test_the_end_of_a_run_does_not_wait_for_another_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "FIRST_BACKOFF_S", 1000.0)
    with Receiver(503) as receiver:
        webhook = Webhook(receiver.url)
        webhook.close()
        with pytest.raises(EdgewfError, match="503"):
            webhook.send(MESSAGE)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "url", ["", "example.com", "ftp://a/b", "http://", "http://[::1", "http://a:0/"]
)
def test_a_webhook_is_a_url(url: str) -> None:
    with pytest.raises(EdgewfError, match="http:// or https://"):
        Webhook(url)


def test_a_password_has_no_place_in_a_url() -> None:
    with pytest.raises(EdgewfError, match="everybody sees it"):
        Webhook("https://me:secret@example.com/")


def test_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret("EDGEWF_A") is None
    path = tmp_path / "key"
    path.write_text("from a file\n")
    monkeypatch.setenv("EDGEWF_A_FILE", str(path))
    assert secret("EDGEWF_A") == "from a file"
    monkeypatch.setenv("EDGEWF_A", "")
    with pytest.raises(EdgewfError, match="both set"):
        secret("EDGEWF_A")
    monkeypatch.delenv("EDGEWF_A_FILE")
    with pytest.raises(EdgewfError, match="EDGEWF_A is empty"):
        secret("EDGEWF_A")
    monkeypatch.delenv("EDGEWF_A")
    monkeypatch.setenv("EDGEWF_A_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(EdgewfError, match=r"cannot read .*nowhere"):
        secret("EDGEWF_A")
