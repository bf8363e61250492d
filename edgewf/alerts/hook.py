"""A command that is told of alerts."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys

from edgewf.alerts.message import Message
from edgewf.errors import EdgewfError

HOOK_TIMEOUT_S = 10.0


class Hook:
    """Runs a program, without a shell, with the JSON of the message on stdin.

    EDGEWF_RULE, EDGEWF_STATE ("on" or "off") and EDGEWF_TEXT are in its environment, and
    EDGEWF_ACCURACY and EDGEWF_THRESHOLD (percent) where they are known. One that takes longer
    than 10 s is killed with its children.

    Args:
        command: program and arguments, split as a shell does.

    Raises:
        EdgewfError: the command is empty or has an open quote.
    """

    def __init__(self, command: str) -> None:
        self._command = _split(command)
        if shutil.which(self._command[0]) is None:
            print(f"warning: {self._failure('no such program')}", file=sys.stderr)

    def send(self, message: Message) -> None:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_variables(message)},
                start_new_session=True,  # Ctrl-C is for the monitor, not for a message on its way
            )
        except OSError as error:
            raise self._failure(error.strerror or str(error)) from error
        with process:
            try:
                output, _ = process.communicate(message.body() + b"\n", HOOK_TIMEOUT_S)
            except subprocess.TimeoutExpired as late:
                # A hook that ended but left a child with its stdout is no hanging hook.
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    reason = f"killed, because it took longer than {HOOK_TIMEOUT_S:g} s"
                    raise self._failure(reason, late.output or b"") from late
                output = b""
        if process.returncode != 0:
            raise self._failure(f"ended with status {process.returncode}", output)

    def close(self) -> None:
        """Nothing: a hook that runs ends by itself or by its timeout."""

    def _failure(self, reason: str, output: bytes = b"") -> EdgewfError:
        lines = output.decode(errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "")
        said = f"; it said: {said.strip()}" if said else ""
        return EdgewfError(f"alert hook {shlex.join(self._command)}: {reason}{said}")


def _split(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise EdgewfError(f"alert hook {command!r}: {error}; check its quotes") from error
    if not words:
        raise EdgewfError("the alert hook is empty: give a program and its arguments")
    return words


def _variables(message: Message) -> dict[str, str]:
    variables = {
        "EDGEWF_RULE": message.rule,
        "EDGEWF_STATE": "on" if message.on else "off",
        "EDGEWF_TEXT": message.text.replace("\0", "?"),
    }
    accuracy = (message.estimate or {}).get("accuracy")
    if accuracy is not None:
        variables["EDGEWF_ACCURACY"] = str(accuracy)
    if message.threshold is not None:
        variables["EDGEWF_THRESHOLD"] = f"{message.threshold:g}"
    return variables
