"""An environment made from a folder of wheels, on a machine without network.

Only Python is needed here, so this file imports nothing that has to be installed first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

# Each is installed on its own, so that one that is missing costs no more than its own stages.
NEEDED = ("setuptools>=77", "wheel", "numpy", "click", "rich", "opencv-python")
# pycuda has no wheels: its sdist is built against the toolkit here. Of ONNX Runtime the first
# that is in the folder; both hold the same Python package.
OPTIONAL = (
    ("pycuda",),
    ("onnxruntime-gpu", "onnxruntime"),
    ("tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings"),
    ("torch",),
    ("torchvision",),
)


@dataclass(frozen=True)
class Environment:
    """Where the stages run.

    Attributes:
        python: its interpreter.
        problems: what could not be installed, and pip's reason.
        usable: edgewf itself is there.
    """

    python: str
    problems: tuple[str, ...] = ()
    usable: bool = True


def here() -> Environment:
    """Return the environment that this process runs in."""
    return Environment(sys.executable)


def make(folder: Path, wheels: Path, repository: Path) -> Environment:
    """Make a virtual environment from wheels alone, on top of what the machine has.

    Args:
        folder: of the environment; one that is there is used again.
        wheels: folder with wheels and sdists, see README.md.
        repository: the checkout, installed in place.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        # JetPack's TensorRT is a Debian package, seen only with the system's packages.
        venv.EnvBuilder(system_site_packages=True, with_pip=True).create(folder)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-index", "--find-links", str(wheels)]
    problems = []
    for names in (*((name,) for name in NEEDED), *OPTIONAL):
        refusals = []
        for name in names:
            # Without isolation: a build would fetch its requirements from the network.
            refusal = _run([*pip, *offline, "--no-build-isolation", name])
            if refusal is None:
                break
            refusals.append(f"{name}: {refusal}")
        else:
            problems += refusals
    own = _run([*pip, "--no-index", "--no-deps", "--no-build-isolation", "-e", str(repository)])
    if own is not None:
        problems.append(f"edgewf: {own}")
    return Environment(str(python), tuple(problems), usable=own is None)


def _toolkit() -> dict[str, str]:
    """Return the environment with the toolkit's nvcc first on the PATH.

    pycuda's build takes the headers from beside it; Jetson has it in its usual place, but not on
    the PATH.
    """
    homes = (os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    folders = [Path(home, "bin") for home in homes if home and Path(home, "bin/nvcc").exists()]
    return {**os.environ, "PATH": os.pathsep.join((*map(str, folders), os.environ["PATH"]))}


def _run(command: list[str]) -> str | None:
    """Run a command; return the line of its complaint that tells most if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=_toolkit()
    )
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    compilers = [line for line in lines if "fatal error:" in line]
    pips = [line for line in lines if line.lower().startswith("error")]
    return (compilers or pips or lines or ["no message"])[-1]
