"""The facts of `edgewf doctor` as tables."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_ABSENT = Text("-", style="dim")


def doctor_report(findings: dict[str, Any]) -> RenderableType:
    """Return what `edgewf doctor` shows: the machine, then the engines, best first."""
    facts = Table(
        title=f"edgewf {findings['edgewf']}",
        box=box.SIMPLE,
        show_header=False,
        title_justify="left",
    )
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in [
        *_machine(findings["machine"]),
        *_nvidia(findings["nvidia"]),
        *_software(findings["software"]),
        *_cameras(findings["cameras"]),
    ]:
        facts.add_row(name, Text(value) if value else _ABSENT)
    engines = Table(
        title=f"engines (auto takes {findings['auto']})", box=box.SIMPLE, title_justify="left"
    )
    engines.add_column("engine", style="bold", no_wrap=True)
    engines.add_column("runs", no_wrap=True)
    engines.add_column("missing", overflow="fold")
    for engine in findings["engines"]:
        missing = "\n".join(f"{x['what']}: {x['fix']}" for x in engine["missing"])
        runs = Text("yes", style="green") if engine["can_run"] else Text("no", style="red")
        engines.add_row(engine["name"], runs, Text(missing))
    return Group(facts, engines)


def _machine(facts: dict[str, Any]) -> list[tuple[str, str | None]]:
    memory = "" if facts["memory"] is None else f", {facts['memory'] / 2**30:.1f} GiB"
    return [
        ("board", facts["board"]),
        ("system", f"{facts['system'] or 'unknown'}, Linux {facts['kernel']}, {facts['libc']}"),
        ("processor", f"{facts['cpus']} x {facts['cpu'] or facts['architecture']}{memory}"),
        ("python", facts["python"]),
    ]


def _nvidia(facts: dict[str, Any]) -> list[tuple[str, str | None]]:
    gpus = [
        f"{x['name']}, compute capability {x['compute_capability']}, "
        f"{x['memory'] / 2**30:.1f} GiB{' shared with the CPU' if x['integrated'] else ''}"
        for x in facts["devices"]
    ]
    rows = [
        ("GPU", "\n".join(gpus) or facts["problem"]),
        ("driver", facts["driver"]),
        ("CUDA of the driver", facts["cuda"]),
    ]
    if facts["jetson"]:
        rows += [
            ("L4T", facts["l4t"]),
            ("JetPack", facts["jetpack"]),
            ("power mode", facts["power_mode"]),
        ]
    return rows


def _software(facts: dict[str, Any]) -> list[tuple[str, str | None]]:
    rows: list[tuple[str, str | None]] = []
    for name in ("onnxruntime", "openvino", "tensorrt", "pycuda", "opencv"):
        rows.append((name, _module(facts[name])))
        if name == "onnxruntime":
            rows.append(("providers", ", ".join(facts["providers"])))
    rows.append(("OpenCV's GStreamer", facts["gstreamer"]))
    for name in ("nvcc", "nvrtc", "g++"):
        found = facts[name]
        rows.append((name, None if found is None else f"{found['version']}, {found['path']}"))
    return rows


def _module(facts: dict[str, Any] | None) -> str | None:
    if facts is None:
        return None
    name = f" ({facts['module']})" if "module" in facts else ""
    if facts["problem"] is not None:
        return f"installed{name}, but does not load: {facts['problem']}"
    return f"{facts['version']}{name}"


def _cameras(found: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    lines = [
        f"{x['device']} {x['name'] or ''}{'' if x['readable'] else ' (no permission)'}".strip()
        for x in found
    ]
    return [("cameras", "\n".join(lines))]
