"""An alert while the estimated accuracy is too low, with a command to tell others of it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.listener import Listener

HYSTERESIS = 2.0
"""Percentage points above the threshold at which an alert goes off."""

HOOK_TIMEOUT_S = 10.0


class AlertBelow(Listener):
    """Goes on when the accuracy is below a threshold, and off when it has clearly recovered.

    Off means at or above the threshold plus 2 points (100 at most), so that an accuracy near the
    threshold does not switch it to and fro. An estimate without an accuracy changes nothing.

    At every change the hook runs in the background, without a shell, with the JSON of the estimate
    on stdin and EDGEWF_ACCURACY, EDGEWF_THRESHOLD (percent) and EDGEWF_STATE ("on" or "off") in its
    environment. Hooks run one after another. One that fails is a warning on stderr, with what it
    printed; one that takes longer than 10 s is killed.

    Args:
        threshold_percent: 0 to 100.
        hook: program and arguments, split as a shell does.

    Attributes:
        on: the state now.
        fired: whether it was ever on.

    Raises:
        EdgewfError: threshold out of range, or a hook that is empty or has an open quote.
    """

    def __init__(self, threshold_percent: float, hook: str | None = None) -> None:
        if not 0.0 <= threshold_percent <= 100.0:
            raise EdgewfError(f"alert below {threshold_percent:g}: give a percentage, 0 to 100")
        self.threshold_percent = threshold_percent
        self.on = False
        self.fired = False
        self._command = None if hook is None else _split(hook)
        if self._command and shutil.which(self._command[0]) is None:
            _warn(self._command, "no such program")
        self._runner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="alert-hook")

    def estimate(self, estimate: Estimate) -> None:
        accuracy = estimate.accuracy
        if accuracy is None:
            return
        if self.on:
            changes = accuracy >= min(self.threshold_percent + HYSTERESIS, 100.0)
        else:
            changes = accuracy < self.threshold_percent
        if not changes:
            return
        self.on = not self.on
        self.fired = True
        if self._command is not None:
            self._runner.submit(_run, self._command, *self._message(estimate))

    def close(self) -> None:
        """Wait for hooks that still run."""
        self._runner.shutdown()

    def _message(self, estimate: Estimate) -> tuple[bytes, dict[str, str]]:
        record = estimate.to_json()
        variables = {
            "EDGEWF_ACCURACY": str(record["accuracy"]),
            "EDGEWF_THRESHOLD": f"{self.threshold_percent:g}",
            "EDGEWF_STATE": "on" if self.on else "off",
        }
        return json.dumps(record).encode() + b"\n", variables


def _split(hook: str) -> list[str]:
    try:
        command = shlex.split(hook)
    except ValueError as error:
        raise EdgewfError(f"alert hook {hook!r}: {error}; check its quotes") from error
    if not command:
        raise EdgewfError("the alert hook is empty: give a program and its arguments")
    return command


def _run(command: list[str], message: bytes, variables: dict[str, str]) -> None:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            start_new_session=True,  # Ctrl-C is for the monitor, not for a message on its way
        )
    except OSError as error:
        _warn(command, error.strerror or str(error))
        return
    with process:
        try:
            output, _ = process.communicate(message, HOOK_TIMEOUT_S)
        except subprocess.TimeoutExpired as late:
            output = late.output or b""
            # A hook that ended but left a child with its stdout is no hanging hook.
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                _warn(command, f"killed, because it took longer than {HOOK_TIMEOUT_S:g} s", output)
                return
    if process.returncode != 0:
        _warn(command, f"ended with status {process.returncode}", output)


def _warn(command: list[str], reason: str, output: bytes = b"") -> None:
    lines = output.decode(errors="replace").split("\n")
    said = next((line for line in reversed(lines) if line.strip()), "")
    said = f"; it said: {said.strip()}" if said else ""
    print(f"warning: alert hook {shlex.join(command)}: {reason}{said}", file=sys.stderr)
