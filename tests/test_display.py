"""The display as text: on terminals of several sizes, and in logs."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgewf.alerts import AlertBelow
from edgewf.estimate import Estimate
from edgewf.listener import Listener, Status
from edgewf.telemetry.chart import Column, accuracy_chart
from edgewf.telemetry.display import LiveDisplay, PlainDisplay, Session, open_display
from tests.states import ESTIMATE, WELL

MARKUP = "[bold]videos[/bold]/[/nonsense] cam\x1b[2J\n.mp4"
DRAWN = MARKUP.replace("\x1b", "?").replace("\n", "?")
SESSION = Session("efficientnet_lite0", MARKUP, frames_total=2500, window=250)
FALLING = [72.0, 70.0, 60.0, 41.0, 18.0, 3.0, 44.0, 66.0]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # all but the newline


def feed(listener: Listener, estimates: Sequence[Estimate], alert: AlertBelow | None) -> None:
    for number, estimate in enumerate(estimates, start=1):
        listener.frame(Status(seen=260 * number, kept=250 * number, dropped=10, filled=250))
        listener.progress(3, 10)
        if alert is not None:
            alert.estimate(estimate)
        listener.estimate(estimate)


def screen(display: LiveDisplay, width: int, height: int) -> list[str]:
    """Return the lines that the view takes on a terminal of this size."""
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(display.view())
    return console.export_text().splitlines()


def live(
    estimates: Sequence[Estimate],
    *,
    width: int = 80,
    height: int = 24,
    alert: AlertBelow | None = None,
    session: Session = SESSION,
) -> LiveDisplay:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    display = LiveDisplay(replace(session, alert=alert), console)
    feed(display, estimates, alert)
    display.close()
    return display


def falling(**changes: object) -> list[Estimate]:
    return [
        replace(ESTIMATE, accuracy=a, interval=(max(0.0, a - 8), a + 8), **changes)  # type: ignore[arg-type]
        for a in FALLING
    ]


@pytest.mark.parametrize("width", [80, 110, 200])
def test_the_view_says_everything_that_matters(width: int) -> None:
    estimates = falling(true_accuracy=64.5, flags=("window is uniform",))
    display = live(estimates, width=width, alert=AlertBelow(55.0))
    text = "\n".join(screen(display, width, 24))
    for words in (
        "efficientnet_lite0",
        DRAWN,
        "2,080 of 2,500",
        "10 near-duplicates",
        "0 of 250",
        "off, below 55 %",
        "true",
        "66.0 %",
        "58.0 to 74.0",
        "30.2",
        "64.5 %",
        "flags of the last: window is uniform",
    ):
        assert words in text, words


@pytest.mark.parametrize(("width", "height"), [(40, 20), (60, 24), (80, 24), (100, 24), (200, 60)])
def test_the_view_fits_its_terminal(width: int, height: int) -> None:
    estimates = falling(true_accuracy=50.0, flags=("few samples selected", "window is uniform"))
    display = live(20 * estimates, width=width, height=height, alert=AlertBelow(55.0))
    lines = screen(display, width, height)
    assert len(lines) <= height
    assert {len(line) for line in lines} == {min(width, 110)}


def test_at_80_columns_nothing_in_the_table_is_cut() -> None:
    worst = replace(
        ESTIMATE,
        accuracy=100.0,
        interval=(100.0, 100.0),
        weighted_flips=1000.0,
        average_confidence=100.0,
        true_accuracy=100.0,
        flags=("window is uniform",),
    )
    lines = screen(live([worst]), 80, 24)
    row = next(line for line in lines if "100.0 to 100.0" in line)
    assert row.count("100.0 %") == 3
    assert "1000.0" in row
    assert "!" in row
    assert "…" not in row


def test_the_burst_shows_its_progress_and_the_rest_when_it_is_over() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    display = LiveDisplay(SESSION, console)
    display.frame(Status(seen=0, kept=0, dropped=0, filled=0))
    assert any("waits for a full window" in line for line in screen(display, 80, 24))
    display.progress(3, 10)
    display.frame(Status(seen=260, kept=255, dropped=5, filled=5))  # a camera goes on meanwhile
    lines = screen(display, 80, 24)
    assert any("step 3 of 10" in line for line in lines)
    assert any("5 of 250" in line for line in lines)
    display.estimate(ESTIMATE)
    display.close()
    assert any("waits for a full window" in line for line in screen(display, 80, 24))


def test_problems_are_shown_until_they_are_over() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    display = LiveDisplay(SESSION, console)
    display.frame(Status(seen=0, kept=0, dropped=0, filled=0))
    display.health(replace(WELL, problems=("the picture is black: [b]check\x1b[2J",)))
    assert any("problem: the picture is black: [b]check?[2J" in x for x in screen(display, 80, 24))
    display.health(WELL)
    assert not any("problem" in line for line in screen(display, 80, 24))
    display.close()


def test_a_log_gets_problems_once_and_their_end() -> None:
    file = io.StringIO()
    display = PlainDisplay(SESSION, Console(file=file, width=40))
    for seconds in (5, 10, 15):
        display.health(replace(WELL, problems=(f"no frame has come for {seconds} s",)))
    display.health(WELL)
    display.health(WELL)
    _, *lines = file.getvalue().splitlines()
    assert lines == ["problem: no frame has come for 5 s", "all is well again"]


def test_frame_rate_leaves_bursts_out_and_silence_is_told() -> None:
    now = [0.0]
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    display = LiveDisplay(SESSION, console, clock=lambda: now[0])

    def collect(first: int) -> None:
        for seen in range(first, first + 100):
            display.frame(Status(seen=seen, kept=seen, dropped=0, filled=1))
            now[0] += 0.05

    collect(0)
    display.progress(1, 10)
    now[0] += 30.0
    assert not any("no frame" in line for line in screen(display, 80, 24))
    display.estimate(ESTIMATE)
    collect(100)
    assert any("· 20/s ·" in line for line in screen(display, 80, 24))
    now[0] += 7.0
    assert any("no frame for 7 s" in line for line in screen(display, 80, 24))
    display.close()


def test_the_alert_shows_while_it_is_on() -> None:
    display = live(falling()[:5], alert=AlertBelow(55.0))
    assert any("alert   ON, below 55 %" in line for line in screen(display, 80, 24))


def test_without_a_calibration_the_view_says_what_is_missing() -> None:
    display = live([replace(ESTIMATE, accuracy=None, interval=None)])
    text = "\n".join(screen(display, 80, 24))
    assert "no calibration, see `edgewf calibrate --help`" in text
    assert "unknown" in text
    assert "30.2" in text


def test_a_log_gets_one_line_per_estimate_without_control_codes() -> None:
    file = io.StringIO()
    alert = AlertBelow(55.0)
    display = PlainDisplay(replace(SESSION, alert=alert), Console(file=file, width=40))
    estimates = [
        ESTIMATE,
        replace(ESTIMATE, accuracy=50.0, true_accuracy=48.0, flags=("[red]a", "b\x1b[2J")),
        replace(ESTIMATE, accuracy=None, interval=None),
    ]
    feed(display, estimates, alert)
    display.close()
    heading, *lines = file.getvalue().splitlines()
    assert DRAWN in heading
    assert not CONTROL.search(file.getvalue())
    assert [line.partition(": ")[2] for line in lines] == [
        "accuracy 70.0 %, 90 % interval 62.5 to 77.5 %, weighted flips 30.2, confidence 66.0 %",
        "accuracy 50.0 %, 90 % interval 62.5 to 77.5 %, weighted flips 30.2, confidence 66.0 %, "
        "true accuracy 48.0 %, ALERT below 55 %, flags: [red]a; b?[2J",
        "accuracy unknown, weighted flips 30.2, confidence 66.0 %, ALERT below 55 %",
    ]
    assert [re.search(r"frame (\d+):", line)[1] for line in lines] == ["260", "520", "780"]  # type: ignore[index]


SCRIPT = """
import sys, time
from edgewf.estimate import Estimate
from edgewf.listener import Status
from edgewf.telemetry import JsonLines, open_display
from edgewf.telemetry.display import Session

display, records = open_display(Session("a model", "demo", None, 250)), JsonLines()
display.frame(Status(seen=0, kept=0, dropped=0, filled=0))
for accuracy in (70.0, 60.0):
    estimate = Estimate(
        accuracy, (50, 80), 30, 50, 1, 250, 10, 66, (), "m", 1.79e9, "s", "e", "combined", {}
    )
    display.estimate(estimate)
    records.estimate(estimate)
print("a warning", file=sys.stderr)
display.close()
"""


def test_on_a_terminal_records_on_stdout_stay_apart_from_the_view() -> None:
    leader, follower = pty.openpty()
    drawn: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(leader, 65536):
                drawn.append(data)
        except OSError:  # Linux ends a pseudo-terminal with EIO
            return

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environment,
        timeout=60,
        check=True,
    )
    os.close(follower)
    reader.join(10)
    os.close(leader)
    accuracies = [json.loads(line)["accuracy"] for line in done.stdout.decode().splitlines()]
    assert accuracies == [70.0, 60.0]
    screen = b"".join(drawn).decode()
    assert "a model" in screen
    assert "a warning" in screen
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h") == 1  # the cursor comes back


@pytest.mark.parametrize("force", [{}, {"FORCE_COLOR": "1"}])
def test_without_a_terminal_no_control_codes_even_with_forced_colour(force: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        env={**os.environ, **force},
        timeout=60,
        check=True,
    )
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 4  # heading, two estimates, warning
    assert not CONTROL.search(done.stderr.decode())
    assert len(done.stdout.splitlines()) == 2


def test_the_caller_may_choose_the_view() -> None:
    assert isinstance(open_display(SESSION, live=False), PlainDisplay)
    assert isinstance(open_display(SESSION, live=True), LiveDisplay)


def chart(columns: Sequence[Column], **options: float) -> list[str]:
    width, height = int(options.pop("width", 40)), int(options.pop("height", 8))
    text = accuracy_chart(columns, width=width, height=height, threshold=options.get("threshold"))
    return text.plain.splitlines()


def eighths(lines: list[str], position: int) -> int:
    return sum(" ▁▂▃▄▅▆▇█".index(line[position]) for line in lines[:-1])


@given(st.floats(0, 100), st.sampled_from([4, 8]))
def test_a_column_is_as_high_as_its_accuracy(accuracy: float, height: int) -> None:
    lines = chart([Column(accuracy, None, "green")], height=height)
    assert eighths(lines, 5) == max(1, round(accuracy / 100 * 8 * height))


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=60),
    st.integers(6, 120),
    st.sampled_from([4, 8]),
)
def test_a_chart_keeps_to_its_size(accuracies: list[float | None], width: int, height: int) -> None:
    columns = [Column(accuracy, accuracy, "green") for accuracy in accuracies]
    lines = chart(columns, width=width, height=height, threshold=55.0)
    assert len(lines) == height + 1
    assert {len(line) for line in lines} == {width}


def test_labels_name_the_upper_edge_of_their_row() -> None:
    lines = chart([Column(75.0, 50.0, "green")], threshold=25.0)
    by_label = {line[:3].strip(): line for line in lines if line[:3].strip()}
    assert list(by_label) == ["100", "75", "50", "25", "0"]
    assert by_label["100"][5:].strip() == ""
    assert by_label["75"][5] == "█"
    assert "▔" in by_label["50"]
    assert "╌" in by_label["25"]
    assert [line for line in lines if "▔" in line] == [by_label["50"]]


def test_the_newest_columns_stay_when_there_is_no_room_for_all() -> None:
    columns = [Column(0.0, None, "green")] * 50 + [Column(100.0, None, "green")] * 20
    lines = chart(columns, width=25)
    assert {eighths(lines, position) for position in range(5, 25)} == {64}


def test_no_estimate_and_zero_percent_look_different() -> None:
    assert eighths(chart([Column(None, None, "green")]), 5) == 0
    assert eighths(chart([Column(0.0, None, "green")]), 5) == 1
