"""The kernels in the hands of NVIDIA's compilers, and the cache of what these make."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgewf.errors import EdgewfError
from edgewf.kernels import compiler, device
from edgewf.kernels.device import BurstKernels
from edgewf.kernels.geometry import HELD, LOAD, MAX_LANES, Geometry

ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120)
WIDEST = 4096  # classes up to here must stay in registers
PAIRS = [("float", "Half"), ("Half", "Half"), ("Half", "float"), ("BFloat16", "BFloat16")]
MACROS = device.definitions(Geometry.of(1000, 4), "float", "float")


def nvcc() -> str:
    found = compiler.find_nvcc()
    if found is None:
        pytest.skip("needs nvcc (the CUDA toolkit)")
    return found


def nvrtc() -> str:
    found = compiler.find_nvrtc()
    if found is None:
        pytest.skip("needs NVRTC (pip install nvidia-cuda-nvrtc-cu12, or the CUDA toolkit)")
    return found


def geometries(itemsize: int) -> list[Geometry]:
    """Return every geometry that some number of classes up to 65,536 has."""
    found = {Geometry.of(K, itemsize) for K in range(2, WIDEST)}
    found |= {Geometry.of(K, itemsize) for K in range(WIDEST, device.MAX_CLASSES + 1, 511)}
    return sorted(found, key=lambda g: g.lanes)


def every_geometry(pairs: list[tuple[str, str]]) -> str:
    """Return a source with all kernels, and em_objective once for each geometry and types."""
    kernels = [
        f'extern "C" __global__ void __launch_bounds__({g.threads}, {1024 // g.threads}) '
        f"em_{logits}_{dlogits}_{g.lanes}(Burst burst, int mode, const {logits}* x, "
        f"{dlogits}* g, int batch) {{ objective<{logits}, {dlogits}, {g.lanes}, "
        f"{g.chunks}, {int(g.resident)}>(burst, mode, x, g, batch); }}"
        for logits, dlogits in pairs
        for g in geometries(4 if logits == "float" else 2)
    ]
    macros = [f"#define {x.replace('=', ' ')}" for x in MACROS]
    return "\n".join([*macros, '#include "kernels.cu"', *kernels, ""])


def build(source: str, architectures: tuple[int, ...], folder: Path) -> str:
    """Compile with all warnings as errors; return what ptxas says."""
    (folder / "all.cu").write_text(source)
    command = [nvcc(), *compiler.FLAGS, "-fatbin", "-Werror", "all-warnings", "-Xptxas", "-v"]
    command += [f"-gencode=arch=compute_{x},code=sm_{x}" for x in architectures]
    command += [f"-I{compiler.SOURCES}", "-o", str(folder / "all.fatbin"), str(folder / "all.cu")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def known_to_nvcc() -> tuple[int, ...]:
    listed = subprocess.run([nvcc(), "--list-gpu-code"], capture_output=True, text=True, check=True)
    return tuple(x for x in ARCHITECTURES if f"sm_{x}\n" in listed.stdout + "\n")


def check_spills(log: str, kernels: int) -> None:
    """Fail if a kernel keeps anything in local memory."""
    found = re.findall(
        r"entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores",
        log,
        re.DOTALL,
    )
    assert len(found) == kernels
    in_local_memory = [x for x in found if x[2:] != ("0", "0")]
    assert not [x for x in in_local_memory if not x[0].endswith(f"_{2 * MAX_LANES}")]


def test_every_architecture_and_no_spills(tmp_path: Path) -> None:
    architectures = known_to_nvcc()
    assert 90 in architectures
    log = build(every_geometry([("float", "float")]), architectures, tmp_path)
    check_spills(log, len(architectures) * (9 + len(geometries(4))))


def test_every_pair_of_types_and_no_spills(tmp_path: Path) -> None:
    log = build(every_geometry(PAIRS), (75,), tmp_path)
    rows = sum(len(geometries(4 if logits == "float" else 2)) for logits, _ in PAIRS)
    check_spills(log, 9 + rows)


@pytest.mark.parametrize(
    ("pair", "stored"), [(("float", "float"), "v4"), (("float", "Half"), "v2"), (PAIRS[1], "v4")]
)
def test_rows_move_16_bytes_at_a_time(pair: tuple[str, str], stored: str, tmp_path: Path) -> None:
    """In PTX; one 16-bit gradient for each 32-bit logit makes 8 bytes."""
    g = Geometry.of(1000, 4 if pair[0] == "float" else 2)
    command = [nvcc(), *compiler.FLAGS, "-ptx", "-arch=compute_80", "-o", str(tmp_path / "k.ptx")]
    command += [f"-D{x}" for x in device.definitions(g, *pair)]
    subprocess.run([*command, str(compiler.SOURCES / "kernels.cu")], check=True)
    ptx = (tmp_path / "k.ptx").read_text()
    body = ptx[ptx.index(".entry em_objective") :]
    body = body[: body.index("\n}")]
    logits = body.count("ld.global.v4.u32")
    assert logits >= g.chunks
    assert body.count(f"st.global.{stored}.u32") == g.chunks
    assert ".local" not in body


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10, 63, 64, 65, 1000, 1001, 8192, 8193, 65_536])
@pytest.mark.parametrize("itemsize", [4, 2])
def test_geometry_holds_every_row(classes: int, itemsize: int) -> None:
    g = Geometry.of(classes, itemsize)
    width = LOAD // itemsize
    room = g.lanes * g.chunks * width
    leads = {(row * classes) % width for row in range(width)}  # elements before the row begins
    if g.resident:
        assert max(leads) + classes <= room
        assert g.chunks * width == HELD
        assert g.lanes == 1 or max(leads) + classes > room / 2, "half the threads have nothing"
    else:
        assert max(leads) + classes > MAX_LANES * HELD
    assert g.threads % 32 == 0
    assert g.threads == g.rows * g.lanes <= 1024


def test_both_compilers_make_code_for_the_same_gpu(tmp_path: Path) -> None:
    for code in (
        compiler.compile_with_nvcc(nvcc(), "sm_87", MACROS),
        compiler.compile_with_nvrtc(nvrtc(), "sm_87", MACROS),
    ):
        assert code[:4] == b"\x7fELF"
        for kernel in device._ARGUMENTS:
            assert f".text.{kernel}".encode() in code


def test_a_refusal_names_compiler_gpu_and_fix() -> None:
    with pytest.raises(EdgewfError, match=r"nvcc cannot build .* for sm_10: .*sm_10.*newer"):
        compiler.compile_with_nvcc(nvcc(), "sm_10", MACROS)
    with pytest.raises(EdgewfError, match=r"nvrtc.* cannot build .* for sm_10: .*newer"):
        compiler.compile_with_nvrtc(nvrtc(), "sm_10", MACROS)


def test_an_error_in_the_source_is_told() -> None:
    wrong = ("EM_LOGITS=Hafl", *MACROS[1:])
    for compile_, path in (
        (compiler.compile_with_nvcc, nvcc()),
        (compiler.compile_with_nvrtc, nvrtc()),
    ):
        with pytest.raises(EdgewfError, match='"Hafl" is undefined'):
            compile_(path, "sm_87", wrong)


def test_nvrtc_is_used_without_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvrtc()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "find_nvcc", lambda: None)
    assert compiler.cubin("sm_87", MACROS)[:4] == b"\x7fELF"


def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "find_nvcc", lambda: None)
    monkeypatch.setattr(compiler, "find_nvrtc", lambda: None)
    with pytest.raises(EdgewfError, match=r"install the CUDA toolkit.*Jetson.*pip install"):
        compiler.cubin("sm_87", MACROS)


def compile_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Put a compiler in place that only notes what it is asked for."""
    asked: list[str] = []

    def made(architecture: str, definitions: tuple[str, ...]) -> bytes:
        asked.append(architecture)
        return f"{architecture} {definitions}".encode()

    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(compiler, "_compile", made)
    return asked


def test_the_cache_answers_for_the_same_source_gpu_and_macros_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = compile_once(monkeypatch, tmp_path / "cache")
    first = compiler.cubin("sm_87", MACROS)
    assert compiler.cubin("sm_87", MACROS) == first
    assert asked == ["sm_87"]
    compiler.cubin("sm_90", MACROS)
    compiler.cubin("sm_87", MACROS[1:])
    assert len(asked) == 3
    changed = tmp_path / "sources"
    shutil.copytree(compiler.SOURCES, changed)
    monkeypatch.setattr(compiler, "SOURCES", changed)
    compiler.cubin("sm_87", MACROS)
    assert len(asked) == 3, "the place of the sources is none of the cache's business"
    with (changed / "rows.cuh").open("a") as file:
        file.write("// changed\n")
    compiler.cubin("sm_87", MACROS)
    assert len(asked) == 4
    assert not [p for p in compiler.cache_folder().iterdir() if p.suffix != ".cubin"]


def test_a_cache_that_cannot_be_written_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    asked = compile_once(monkeypatch, blocked)
    assert compiler.cubin("sm_87", MACROS) == compiler.cubin("sm_87", MACROS)
    assert len(asked) == 2


def test_an_interrupted_write_leaves_no_cubin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compile_once(monkeypatch, tmp_path)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    compiler.cubin("sm_87", MACROS)
    assert list(compiler.cache_folder().iterdir()) == []


def test_without_pycuda_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(EdgewfError, match=r"pip install pycuda.*Jetson"):
        BurstKernels(
            np.ones(3, np.float32),
            classes=10,
            window=4,
            steps=1,
            logits_dtype="float32",
            dlogits_dtype="float32",
            loss_scale=1.0,
            stream=None,
        )
