"""One command for everything that needs a GPU:

    python -m benchmarks.gpu [--wheels DIR] [--bundles DIR]

checks the kernels and the engines on this machine's NVIDIA GPU, times them, and writes JSON and a
Markdown report. It needs no network, and with --wheels nothing but Python, NumPy and the CUDA
toolkit; what is not there is skipped, with the reason in the report. README.md in this folder says
how to carry it to a machine. Exit status 1: a correctness check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu import environment
from benchmarks.gpu.report import folder_name, gpu_name, markdown
from benchmarks.gpu.stages import PICTURES, Outcome, Stage, run, stages

REPOSITORY = Path(__file__).resolve().parents[2]
MACHINE = Stage("machine", ("benchmarks.gpu.machine",), 30.0)
BUNDLES = Stage("bundles", ("benchmarks.gpu.bundles", "{bundles}"), 120.0)


def main(arguments: list[str] | None = None) -> int:
    """Run the stages, write the report; return the exit status."""
    options = _parser().parse_args(arguments)
    chosen = [x for x in stages() if not options.only or x.name.startswith(tuple(options.only))]
    if not chosen:
        names = ", ".join(x.name for x in stages())
        print(f"--only {' '.join(options.only)}: no such stage; there are {names}", file=sys.stderr)
        return 2
    os.chdir(REPOSITORY)  # where the stages find the packages `benchmarks` and `tests`
    end = time.monotonic() + 60 * options.minutes
    there = environment.here()
    if options.wheels is not None:
        if not options.wheels.is_dir():
            print(f"--wheels {options.wheels}: no such folder", file=sys.stderr)
            return 2
        _say("installing from wheels")
        there = environment.make(REPOSITORY / "build/gpu/venv", options.wheels, REPOSITORY)
        for problem in there.problems:
            _say(f"  {problem}")
        if not there.usable:
            _say(f"nothing can be checked: see that {options.wheels} has what README.md lists")
            return 2
    outcomes = [_run(MACHINE, there.python, options.bundles, end)]
    machine = next(iter(outcomes[0].records), {})
    if not (options.bundles / PICTURES).exists():
        outcomes.append(_run(BUNDLES, there.python, options.bundles, end))
    gpu = gpu_name(machine)
    output = options.output or REPOSITORY / "benchmarks/results" / folder_name(gpu)
    for stage in chosen:
        outcomes.append(_run(stage, there.python, options.bundles, end))
        # After each, so that a machine that goes away leaves what was found.
        _write(output, machine, outcomes, there.problems)
    _say(f"report: {output / 'report.md'}")
    return int(any(outcome.broken for outcome in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    path = {"type": lambda text: Path(text).resolve(), "metavar": "DIR"}
    parser.add_argument("--wheels", help="install from these wheels into build/gpu/venv", **path)
    parser.add_argument(
        "--bundles",
        default=REPOSITORY / "build/gpu/bundles",
        help="from `python -m benchmarks.gpu.bundles`; made here where PyTorch is [build/gpu/...]",
        **path,
    )
    parser.add_argument("--output", help="of the report [benchmarks/results/<GPU name>]", **path)
    parser.add_argument("--only", action="append", help="stages that begin so; may be repeated")
    parser.add_argument("--minutes", type=float, default=8, help="for everything [8]")
    return parser


def _run(stage: Stage, python: str, bundles: Path, end: float) -> Outcome:
    _say(f"{stage.name} ...", line_end=" ")
    outcome = run(stage, python, bundles, end - time.monotonic())
    _say(f"{outcome.status} ({outcome.seconds:.0f} s) {outcome.reason[:90]}".rstrip())
    return outcome


def _say(text: str, line_end: str = "\n") -> None:
    print(text, end=line_end, file=sys.stderr, flush=True)


def _write(
    output: Path, machine: dict[str, object], outcomes: list[Outcome], problems: tuple[str, ...]
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine, "stages": [asdict(x) for x in outcomes], "problems": problems}
    for name, text in (
        ("report.json", json.dumps(record, indent=1) + "\n"),
        ("report.md", markdown(machine, outcomes, problems)),
    ):
        partial = output / f"{name}.partial"
        partial.write_text(text)
        partial.replace(output / name)


if __name__ == "__main__":
    sys.exit(main())
