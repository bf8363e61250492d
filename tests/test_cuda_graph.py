"""What is asked of the CUDA driver for a graph, answered by a small library of its interface."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from edgewf.engines import cuda_graph
from edgewf.engines.cuda_graph import CudaGraph
from edgewf.errors import EdgewfError

# Prototypes as in cuda.h. Counts what is alive; END and START are what those calls return.
DRIVER = r"""
#include <stddef.h>
int capturing, graphs, executables, launched;
void *stream;
int cuGetErrorName(int error, const char **name) {
    *name = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
    return 0;
}
int cuStreamBeginCapture_v2(void *s, int mode) {
    stream = s;
    return capturing++ || mode != 1;
}
int cuStreamEndCapture(void *s, void **graph) {
    capturing--;
    if (END) { *graph = NULL; return END; }
    graphs++;
    *graph = (void *)0x100000001;
    return s != stream;
}
int cuGraphDestroy(void *graph) {
    if (graph != NULL) graphs--;
    return 0;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    if (START) return START;
    executables++;
    *executable = (void *)0x200000002;
    return graph != (void *)0x100000001 || flags;
}
int cuGraphLaunch(void *executable, void *s) {
    launched++;
    return executable != (void *)0x200000002 || s != stream || capturing;
}
int cuGraphExecDestroy(void *executable) {
    executables--;
    return executable != (void *)0x200000002;
}
"""
STREAM = 0x7F0012345678  # more than 32 bits, as handles have


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, *, end: int = 0, start: int = 0):  # type: ignore[no-untyped-def]
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the library that stands for the driver")
    source, library = folder / "driver.c", folder / f"libgraph{end}_{start}.so"
    source.write_text(DRIVER)
    command = [compiler, "-shared", "-fPIC", f"-DEND={end}", f"-DSTART={start}"]
    subprocess.run([*command, "-o", library, source], check=True)
    monkeypatch.setattr(cuda_graph, "_LIBRARY", str(library))
    built = ctypes.CDLL(str(library))

    def alive() -> tuple[int, ...]:
        names = ("capturing", "graphs", "executables", "launched")
        return tuple(ctypes.c_int.in_dll(built, name).value for name in names)

    return alive


def test_recorded_once_and_launched_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = driver(tmp_path, monkeypatch)
    seen = []
    graph = CudaGraph(STREAM, lambda: seen.append(alive()))
    assert seen == [(1, 0, 0, 0)]  # the stream was recording
    assert alive() == (0, 0, 1, 0)
    for _ in range(3):
        graph.launch()
    assert (len(seen), alive()) == (1, (0, 0, 1, 3))
    graph.free()
    assert alive() == (0, 0, 0, 3)


@pytest.mark.parametrize(
    ("end", "start", "function"),
    [(901, 0, "cuStreamEndCapture"), (0, 2, "cuGraphInstantiateWithFlags")],
)
def test_what_cannot_be_recorded_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: int, start: int, function: str
) -> None:
    alive = driver(tmp_path, monkeypatch, end=end, start=start)
    with pytest.raises(EdgewfError, match=rf"failed in {function}: CUDA_ERROR_\w+; restart"):
        CudaGraph(STREAM, lambda: None)
    assert alive() == (0, 0, 0, 0)


def test_a_failure_while_recording_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = driver(tmp_path, monkeypatch)

    def fail() -> None:
        raise EdgewfError("no room")

    with pytest.raises(EdgewfError, match="no room"):
        CudaGraph(STREAM, fail)
    assert alive() == (0, 0, 0, 0)
