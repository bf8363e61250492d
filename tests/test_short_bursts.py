"""Which bursts the curves of steps, learning rate, batch and window are made of."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.accuracy import held_out
from benchmarks.accuracy.short_bursts import main, one_pass, varied
from edgewf.settings import BurstSettings

START = one_pass(BurstSettings.default(10), window=512, batch_size=64)


def test_bursts_go_through_the_window_once_unless_steps_vary() -> None:
    assert START.steps == 8
    assert varied(START, "steps", 30) == START.with_changes(steps=30)
    assert varied(START, "learning_rate", 0.02) == START.with_changes(learning_rate=0.02)
    assert varied(START, "batch_size", 16) == START.with_changes(batch_size=16, steps=32)
    assert varied(START, "window", 128) == START.with_changes(window=128, steps=2)
    assert varied(START, "window", 32) == START.with_changes(window=32, batch_size=32, steps=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("momentum=0.5", "'momentum' is none of steps, learning_rate, batch_size, window"),
        ("steps=1,two", "'1,two' are not numbers between commas"),
    ],
)
def test_what_cannot_vary_is_named(text: str, message: str, tmp_path: Path) -> None:
    arguments = ["--bundle", str(tmp_path), "--data", str(tmp_path), "--vary", text]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("command", [main, held_out.main])
@pytest.mark.parametrize("severity", ["0", "6"])
def test_severities_that_there_are_not_are_refused(
    command: click.Command, severity: str, tmp_path: Path
) -> None:
    arguments = ["--bundle", str(tmp_path), "--data", str(tmp_path), "--severity", severity]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert f"{severity} is not in the range 1<=x<=5" in result.stderr
