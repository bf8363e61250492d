"""The outcomes of the GPU check as Markdown, and the folder they go to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from benchmarks.gpu.stages import Outcome, Record

_EAGER = "eager fp32"


def gpu_name(machine: Record) -> str | None:
    """Return the first GPU's name, None where there is none."""
    devices = machine.get("nvidia", {}).get("devices", [])
    return str(devices[0]["name"]) if devices else None


def folder_name(gpu: str | None) -> str:
    """Return the name of the folder for a GPU's results."""
    return re.sub(r"[^a-z0-9]+", "-", (gpu or "no GPU").lower()).strip("-")


def markdown(machine: Record, outcomes: Iterable[Outcome], problems: Iterable[str]) -> str:
    """Return the whole report.

    Args:
        machine: what the stage `machine` printed, {} if it failed.
        outcomes: of the other stages, in their order.
        problems: of the environment.
    """
    outcomes = list(outcomes)
    parts = [
        "# GPU check",
        f"`python -m benchmarks.gpu`: {_machine(machine)}",
        _verdict(outcomes),
        "## Stages",
        _stages(outcomes),
        *_section("Kernels", _kernels(outcomes)),
        *_section("Agreement with the CPU", _agreement(outcomes)),
        *_section("Time and memory", _times(outcomes)),
        *_section("Engines built by TensorRT", _plans(outcomes)),
        *_section("Could not be installed", "\n".join(f"- {x}" for x in problems)),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(outcomes: list[Outcome]) -> str:
    broken = [outcome.stage for outcome in outcomes if outcome.broken]
    missed = [outcome.stage for outcome in outcomes if outcome.status == "missed"]
    ran = [outcome for outcome in outcomes if outcome.correctness and outcome.status == "passed"]
    total = sum(outcome.correctness for outcome in outcomes)
    text = f"{len(ran)} of {total} correctness stages ran and passed."
    if broken:
        text += f" **Failed: {', '.join(broken)}.**"
    if missed:
        text += f" Targets missed: {', '.join(missed)}."
    return text


def _machine(machine: Record) -> str:
    if not machine:
        return "the machine could not be described"
    nvidia, software = machine["nvidia"], machine["software"]
    gpus = ", ".join(
        f"{d['name']} (compute capability {d['compute_capability']}, {d['memory'] / 2**30:.0f} GiB)"
        for d in nvidia["devices"]
    )
    facts = [gpus or f"no GPU ({nvidia['problem']})"]
    facts += [f"driver {nvidia['driver']}"] if nvidia["driver"] else []
    facts += [f"CUDA {nvidia['cuda']}"] if nvidia["cuda"] else []
    facts += [f"JetPack {nvidia['jetpack']}"] if nvidia["jetpack"] else []
    facts += [f"power mode {nvidia['power_mode']}"] if nvidia["power_mode"] else []
    facts += [str(machine["machine"]["cpu"] or machine["machine"]["architecture"])]
    facts += [f"Python {machine['machine']['python']}"]
    for name in ("tensorrt", "onnxruntime", "pycuda", "nvcc"):
        found = software[name]
        facts += [f"{name} {found['version']}"] if found and found["version"] else []
    return ", ".join(facts)


def _stages(outcomes: list[Outcome]) -> str:
    notes: list[str] = []  # each reason once, however many stages share it
    lines = ["| stage | outcome | s | note |", "|---|---|---:|---:|"]
    for x in outcomes:
        reasons = [x.reason] if x.reason else []
        reasons += [
            f"{record.get('check', '')}: {record['reason']}"
            for record in x.records
            if record.get("passed") is False and "reason" in record
        ]
        notes += [reason for reason in reasons if reason not in notes]
        numbers = ", ".join(str(notes.index(reason) + 1) for reason in reasons)
        lines.append(f"| {x.stage} | {x.status} | {x.seconds:.0f} | {numbers} |")
    explained = "\n".join(f"{i}. {_cell(note)}" for i, note in enumerate(notes, 1))
    return "\n".join(lines) + (f"\n\n{explained}" if notes else "")


def _kernels(outcomes: list[Outcome]) -> str:
    found = _by_stage(outcomes)
    lines = []
    for record in found.get("kernels/correctness", []):
        if "cases" in record:
            wrong = record["failures"]
            lines.append(
                f"- {record['cases']} cases against reference.py, {len(wrong)} differ"
                + "".join(f"\n  - {case}" for case in wrong[:20])
            )
    lines += [
        f"- {record['runs']} runs of a burst gave {record['different']} different results"
        for record in found.get("kernels/reproducibility", [])
        if "runs" in record
    ]
    lines += [
        f"- compute-sanitizer {tool}: {_cell(verdict)}"
        for record in found.get("kernels/sanitizer", [])
        for tool, verdict in record.get("tools", {}).items()
    ]
    lines += [
        f"- B = {r['B']}, K = {r['K']}: {r['microseconds']:.1f} us from launch to finish, an empty "
        f"kernel {r['empty_microseconds']:.1f} us: {r['ratio']:.2f} x (target {r['target']})"
        for r in found.get("kernels/latency", [])
        if "ratio" in r
    ]
    tables = ["\n".join(lines)] if lines else []
    cases = [c for r in found.get("kernels/bandwidth", []) for c in r.get("cases", [])]
    if cases:
        target = found["kernels/bandwidth"][0]["target"]
        tables.append(
            _table(
                ("B", "K", "types", "objective", "GB/s", "copy, GB/s", f"share (target {target})"),
                [
                    (
                        c["B"],
                        c["K"],
                        f"{c['logits']} to {c['dlogits']}",
                        c["objective"],
                        f"{c['GB_per_s']:.0f}",
                        f"{c['copy_GB_per_s']:.0f}",
                        f"{c['of_copy']:.2f}",
                    )
                    for c in cases
                ],
            )
        )
    cases = [c for r in found.get("kernels/torch", []) for c in r.get("cases", [])]
    if cases:
        head = ("B", "K", "kernel, us", "PyTorch eager, us", "torch.compile, us", "eager / kernel")
        keys = ("microseconds", "eager_microseconds", "compile_microseconds", "faster_than_eager")
        rows = [(c["B"], c["K"], *(f"{c[key]:.1f}" for key in keys)) for c in cases]
        tables.append(_table(head, rows))
    return "\n\n".join(tables)


def _agreement(outcomes: list[Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        if not outcome.stage.startswith("agreement/"):
            continue
        _, model, engine = outcome.stage.split("/")
        for r in outcome.records:
            facts = ", ".join(
                f"{key.replace('_', ' ')} {_figure(value)}"
                for key, value in r.items()
                if key not in ("check", "passed", "skipped")
            )
            if "check" in r:
                rows.append((model, engine, r["check"], facts, "yes" if r["passed"] else "**no**"))
    return _table(("model", "engine", "check", "found", "holds"), rows) if rows else ""


def _times(outcomes: list[Outcome]) -> str:
    found = [r for o in outcomes if o.stage.startswith(("latency/", "torch/")) for r in o.records]
    found = [r for r in found if "step_ms" in r]
    eager = {(r["model"], r["batch"]): r["step_ms"] for r in found if _EAGER in r.get("row", "")}
    rows = []
    for r in sorted(found, key=lambda r: (r["model"], r["batch"])):
        base = eager.get((r["model"], r["batch"]))
        rows.append(
            (
                r["model"],
                r["batch"],
                r.get("row") or f"edgewf, {r['engine']}, {r['precision']}",
                f"{r['step_ms']:.2f}",
                f"{base / r['step_ms']:.2f}" if base else "",
                f"{r['infer_ms']:.2f}" if "infer_ms" in r else "",
                f"{r['burst_ms']:.0f}" if "burst_ms" in r else "",
                f"{r['device_MiB']:.0f}",
            )
        )
    if not rows:
        return ""
    head = ("model", "batch", "row", "step, ms", "PyTorch eager / row", "infer, ms", "burst, ms")
    note = [
        f"A burst is {r['window']} frames and {r['steps']} steps, its labels before and after "
        "included. Medians."
        for r in found
        if "window" in r
    ]
    return "\n\n".join([_table((*head, "device memory, MiB"), rows), *note[:1]])


def _plans(outcomes: list[Outcome]) -> str:
    rows = [
        (o.stage.split("/")[1], r["tensorrt"], r["built"], f"{r['seconds']:.0f}", f"{r['MiB']:.0f}")
        for o in outcomes
        if o.stage.startswith("plans/")
        for r in o.records
        if "built" in r
    ]
    return _table(("model", "TensorRT", "built now", "s", "MiB"), rows) if rows else ""


def _by_stage(outcomes: list[Outcome]) -> dict[str, tuple[Record, ...]]:
    return {outcome.stage: outcome.records for outcome in outcomes}


def _section(title: str, body: str) -> tuple[str, ...]:
    return (f"## {title}", body) if body else ()


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(_cell(str(cell)) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(x)}" for key, x in value.items())
    return str(value)
