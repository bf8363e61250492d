"""How the benchmark talks to the process of a row: a line of JSON for every question and answer.

A row is a process of its own, which stays while the others take their turns, so that each has its
own libraries, thread pool and peak of memory. Only the standard library is imported here: the row
of ONNX Runtime Training lives in an environment without edgewf.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


class RowError(Exception):
    """A row that cannot run, with the reason that its process gave."""


class Row:
    """What a row's process offers: the step, deployed inference, and the gradient to compare.

    Args:
        step: runs forward with batch statistics, entropy, gradient and update once.
        infer: runs the deployed network once; None where there is none.
        gradient: writes the gradient [P] of the summed entropy to a .npy file, for the first
            step's parameters.
    """

    def __init__(
        self,
        step: Callable[[], object],
        infer: Callable[[], object] | None,
        gradient: Callable[[Path], None],
    ) -> None:
        self.step = step
        self.infer = infer
        self.gradient = gradient


def serve(make: Callable[[dict[str, Any]], Row]) -> None:
    """Answer questions on stdin until it ends; `make` gets the first one."""
    # Libraries print to stdout, which is for answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    before = peak_memory()
    begin = time.perf_counter()
    row = make(order)
    ready = {"seconds": time.perf_counter() - begin, "infers": row.infer is not None}
    answers.write(json.dumps(ready) + "\n")
    for line in sys.stdin:
        question, _, argument = line.strip().partition(" ")
        answer: dict[str, Any] = {}
        begin = time.perf_counter()
        if question == "step":
            row.step()
        elif question == "infer":
            assert row.infer is not None
            row.infer()
        elif question == "gradient":
            row.gradient(Path(argument))
        elif question == "memory":
            answer = {"bytes": peak_memory(), "bytes_before_loading": before}
        answer["seconds"] = time.perf_counter() - begin
        answers.write(json.dumps(answer) + "\n")


def peak_memory() -> int:
    """Return the most memory that this process ever had in RAM, in bytes."""
    found = [x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:")]
    return 1024 * int(found[0].split()[1])


class Process:
    """A row's process, as the benchmark sees it."""

    def __init__(self, command: Sequence[str], order: dict[str, Any]) -> None:
        """Start it and wait until it is ready.

        Raises:
            RowError: it ended; says why.
        """
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`close` closes it)
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            start_new_session=True,
        )
        self.infers = bool(self._ask(json.dumps(order))["infers"])

    def step(self) -> float:
        """Run a step and return its seconds, measured inside the process."""
        return float(self._ask("step")["seconds"])

    def infer(self) -> float:
        """Run the deployed network and return its seconds."""
        return float(self._ask("infer")["seconds"])

    def gradient(self, path: Path) -> None:
        """Let it write its gradient."""
        self._ask(f"gradient {path}")

    def memory(self) -> dict[str, int]:
        """Return peak and start of its memory in bytes."""
        answer = self._ask("memory")
        return {"peak": answer["bytes"], "before_loading": answer["bytes_before_loading"]}

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout, self._words):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _ask(self, question: str) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(question + "\n")
            self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            status = self._child.wait()
            self._words.seek(0)
            last = [x.strip() for x in self._words.read().splitlines() if x.strip()][-1:]
            raise RowError(f"ended with status {status}: {' '.join(last) or 'no message'}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def processes() -> Iterator[dict[str, Process]]:
    """Yield a dictionary; whatever processes are in it at the end are ended."""
    running: dict[str, Process] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.close()
