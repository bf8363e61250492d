"""A file that holds a whole network, recognised by what is inside."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgewf.errors import EdgewfError
from edgewf.export.checkpoint import is_safetensors
from edgewf.export.sources import Source, onnx_file, torch_file

# By which a name that is no file is still taken for one.
SUFFIXES = (".onnx", ".pt", ".pt2", ".pth", ".ts", ".torchscript", ".safetensors")

_LEGACY_PICKLE = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"  # how torch.save wrote before torch 1.6


def is_file_name(model: str) -> bool:
    """Tell a path from a model's name: it ends like one, or a file lies there."""
    path = Path(model)
    return path.suffix in SUFFIXES or (("." in model or "/" in model) and path.is_file())


def load(
    path: str, weights: str, classes: int | None, image_size: int | None, head: str | None
) -> Source:
    """Read a TorchScript archive, a `torch.export` program or an ONNX model.

    Args:
        path: the file.
        weights: "default"; the file has its own.
        classes: what the caller expects the model to have, if anything.
        image_size: side of the input in pixels, where the file leaves it open.
        head: name of the output to keep, where there are several.

    Raises:
        EdgewfError: no such file, or one without a network; see also the readers.
    """
    file = Path(path)
    if not file.is_file():
        raise EdgewfError(f"--model {path}: no such file")
    if weights != "default":
        raise EdgewfError(f"{path} holds its own weights: leave --weights {weights} out")
    entries = _entries(file)
    if any(name in entries for name in ("archive_format", "serialized_exported_program.json")):
        return torch_file.load_program(path, classes, image_size, head)
    if "constants.pkl" in entries:
        return torch_file.load_torchscript(path, classes, image_size, head)
    with file.open("rb") as stream:
        start = stream.read(len(_LEGACY_PICKLE))
    if "data.pkl" in entries or start == _LEGACY_PICKLE or is_safetensors(file):
        raise EdgewfError(
            f"{path} holds weights and no network: name its architecture, --model NAME or "
            f"--model MODULE:CALLABLE, with --weights {path}"
        )
    if file.suffix == ".onnx":
        return onnx_file.load(path, classes, image_size, head)
    raise EdgewfError(
        f"{path}: neither a TorchScript archive nor a torch.export program, and not named .onnx; "
        "it may be truncated, or of another framework: export it to ONNX"
    )


def _entries(file: Path) -> set[str]:
    """Return the names in the archive without its one top folder; none if it is no archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {name.partition("/")[2] or name for name in archive.namelist()}
    except zipfile.BadZipFile:
        return set()
