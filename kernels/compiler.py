"""From the CUDA sources beside this file to machine code for one GPU, kept on disk.

nvcc is asked first, NVRTC where there is none: it comes with the CUDA toolkit too, and as the
wheel `nvidia-cuda-nvrtc-cu12`, and needs no host compiler. pycuda is not needed here.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgewf.errors import EdgewfError

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17",)
_TOOLKIT = Path("/usr/local/cuda")
_INSTALL = (
    "install the CUDA toolkit and put nvcc on the PATH (on Jetson: apt install nvidia-jetpack, "
    "then /usr/local/cuda/bin), or pip install nvidia-cuda-nvrtc-cu12"
)

Compiler = Callable[[str, tuple[str, ...]], bytes]


def cubin(architecture: str, definitions: tuple[str, ...]) -> bytes:
    """Return the kernels as a cubin, from the cache if they were compiled before.

    Args:
        architecture: such as "sm_87".
        definitions: macros, as NAME=VALUE.

    Raises:
        EdgewfError: there is no compiler, or none that knows the architecture.
    """
    path = cache_folder() / f"{cache_key(architecture, definitions)}.cubin"
    try:
        return path.read_bytes()
    except OSError:
        pass
    code = _compile(architecture, definitions)
    _keep(path, code)
    return code


def cache_folder() -> Path:
    """Return where compiled kernels are kept: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "edgewf" / "kernels"


def cache_key(architecture: str, definitions: tuple[str, ...]) -> str:
    """Return a hash of everything that decides the machine code but the compiler itself."""
    digest = hashlib.sha256()
    for path in sorted(p for p in SOURCES.iterdir() if p.suffix in (".cu", ".cuh")):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    digest.update("\0".join((architecture, *FLAGS, *definitions)).encode())
    return digest.hexdigest()


def find_nvcc() -> str | None:
    """Return nvcc from CUDA_HOME, the PATH, or where the toolkit goes by default."""
    for folder in (os.environ.get("CUDA_HOME"), None, _TOOLKIT):
        place = os.fspath(Path(folder) / "bin") if folder else None
        if found := shutil.which("nvcc", path=place):
            return found
    return None


def find_nvrtc() -> str | None:
    """Return NVRTC's library: a wheel's, the toolkit's, or one that the system's loader finds."""
    folders = [Path(p) / "nvidia" for p in sys.path if p]
    patterns = ("cu*/lib/libnvrtc.so.*", "cuda_nvrtc/lib/libnvrtc.so.*")
    found = [f for folder in folders for pattern in patterns for f in folder.glob(pattern)]
    home = Path(os.environ.get("CUDA_HOME") or _TOOLKIT)
    found += home.glob("lib64/libnvrtc.so.*")
    for name in (*map(os.fspath, found), "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


def compile_with_nvcc(nvcc: str, architecture: str, definitions: tuple[str, ...]) -> bytes:
    """Run nvcc.

    Raises:
        EdgewfError: it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "kernels.cubin"
        command = [nvcc, "-cubin", f"-arch={architecture}", *FLAGS, "-o", os.fspath(output)]
        command += [f"-D{x}" for x in definitions] + [os.fspath(SOURCES / "kernels.cu")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise EdgewfError(f"{nvcc} does not run: {error}") from error
        if done.returncode:
            raise EdgewfError(_refusal(nvcc, architecture, done.stderr or done.stdout))
        return output.read_bytes()


def compile_with_nvrtc(library: str, architecture: str, definitions: tuple[str, ...]) -> bytes:
    """Call NVRTC's C API.

    Raises:
        EdgewfError: it fails.
    """
    nvrtc = ctypes.CDLL(library)
    program = ctypes.c_void_p()
    source = (SOURCES / "kernels.cu").read_bytes()
    options = [f"--gpu-architecture={architecture}", f"--include-path={SOURCES}", *FLAGS]
    options += [f"--define-macro={x}" for x in definitions]
    array = (ctypes.c_char_p * len(options))(*(x.encode() for x in options))

    def text(kind: str) -> bytes:
        size = ctypes.c_size_t()
        if getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)):
            return b""
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
        return buffer.raw

    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None)
    if status:
        raise EdgewfError(_refusal(library, architecture, f"error {status}"))
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(options), array)
        code = b"" if status else text("CUBIN")
        if not code:
            log = text("ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise EdgewfError(_refusal(library, architecture, log.strip() or f"error {status}"))
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _compile(architecture: str, definitions: tuple[str, ...]) -> bytes:
    """Ask each compiler in turn; the last one's complaint is the one to report."""
    problem: EdgewfError | None = None
    for compile_ in _compilers():
        try:
            return compile_(architecture, definitions)
        except EdgewfError as error:  # noqa: PERF203 - there are two at most
            problem = error
    raise problem or EdgewfError(f"no compiler for the CUDA kernels: {_INSTALL}")


def _compilers() -> Iterator[Compiler]:
    if (nvcc := find_nvcc()) is not None:
        yield lambda architecture, macros: compile_with_nvcc(nvcc, architecture, macros)
    if (nvrtc := find_nvrtc()) is not None:
        yield lambda architecture, macros: compile_with_nvrtc(nvrtc, architecture, macros)


def _refusal(compiler: str, architecture: str, log: str) -> str:
    lines = [line for line in log.strip().splitlines() if line.strip()]
    told = next((line for line in lines if "error" in line or "fatal" in line), lines[0])
    return (
        f"{compiler} cannot build the kernels for {architecture}: {told.strip()}; a GPU newer than "
        f"the toolkit needs a newer toolkit, else {_INSTALL}"
    )


def _keep(path: Path, code: bytes) -> None:
    """Write atomically. A cache that cannot be written costs a compilation, not a burst."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(code)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
