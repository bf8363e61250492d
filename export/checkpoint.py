"""Weights from a checkpoint, however the training script wrapped them."""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewf.errors import EdgewfError

if TYPE_CHECKING:
    from torch import Tensor, nn

# What training scripts call the weights. An average over training comes first: where a script
# keeps one, it is what it evaluates and ships.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_WRAPPERS = (*_AVERAGES, "state_dict", "model_state_dict", "model", "net", "network")

# Written by torch.compile, at any depth.
_COMPILED = "_orig_mod."

# Counters beside the weights; no classifier reads them in evaluation mode.
_COUNTERS = ("num_batches_tracked", "n_averaged")


def load_weights(module: nn.Module, path: str, name: str, unused: tuple[str, ...] = ()) -> str:
    """Load a checkpoint into `module` and say where in the file the weights were.

    The file is a state dict in PyTorch's or safetensors' format, bare or under one of the usual
    keys (`state_dict`, `model`, `model_ema`...), its names with or without a prefix (`module.` of
    DataParallel, `model.` of Lightning, `_orig_mod.` of torch.compile...). An exponential moving
    average is taken before the weights that it averages.

    Args:
        module: takes the weights.
        path: the file.
        name: the model's, for error messages.
        unused: submodules whose weights the file may hold and `module` lacks.

    Returns:
        The path, with the key that was read where it says more than the path.

    Raises:
        EdgewfError: unreadable file, or keys and shapes that do not fit the module.
    """
    keys, state = _unwrap(_read(path, name))
    if not state:
        raise EdgewfError(
            f"{path}: holds no state dict, bare or under one of {', '.join(_WRAPPERS)}: "
            "save one with torch.save(model.state_dict(), FILE)"
        )
    expected = {k: v for k, v in module.state_dict().items() if not k.endswith(_COUNTERS)}
    prefix, state = _strip(state, expected)
    state = {k: v for k, v in state.items() if k.partition(".")[0] not in unused}
    _check_head(state, expected, path, name)
    try:
        # Counters are the only weights that a file may lack.
        complete = OrderedDict({**_counters(module), **state})
        # A module that changed between versions (torchvision's MNASNet) looks for its own here.
        complete._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
        module.load_state_dict(complete)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise EdgewfError(
            f"{path}: does not fit {name}: {lines[0]}"
            + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")
        ) from error
    averaged = [part for part in (*keys, *prefix.split(".")) if part in _AVERAGES]
    return f"{path} ({averaged[0]})" if averaged else path


def _read(path: str, name: str) -> object:
    """Return what the file holds, without running code from it."""
    file = Path(path)
    if not file.is_file():
        raise EdgewfError(f"{path}: no such weights file for {name}")
    if is_safetensors(file):
        return _read_safetensors(path)
    import torch

    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = _foreign_globals(path)
        raise EdgewfError(
            f"{path}: not a PyTorch checkpoint that loads without running code: "
            + (f"it pickles {', '.join(foreign)}" if foreign else type(error).__name__)
            + "; load it where you trained, save one with torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:
        raise EdgewfError(
            f"{path}: not a PyTorch checkpoint that loads without running code "
            f"({type(error).__name__}); save one with torch.save(model.state_dict(), FILE)"
        ) from error


def is_safetensors(file: Path) -> bool:
    """The format opens with the length of a JSON header, a uint64, and the header."""
    with file.open("rb") as stream:
        start = stream.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def _read_safetensors(path: str) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise EdgewfError(f"{path} needs safetensors ({error}): pip install safetensors") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise EdgewfError(
            f"{path}: not a readable safetensors file ({error}); it may be truncated: copy it again"
        ) from error


def _harmless() -> list[Any]:
    """What training scripts save beside the weights: their arguments and best scores."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
        # NumPy 2 moved it; files carry either name.
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]


def _foreign_globals(path: str) -> list[str]:
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # files from before torch 1.6 cannot be looked into
        return []


def _unwrap(content: object) -> tuple[list[str], dict[str, Tensor]]:
    """Follow the usual keys to a state dict; return the keys and it, empty if there is none."""
    import torch

    keys: list[str] = []
    while isinstance(content, Mapping):
        wrapper = next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if wrapper is None:
            # Lightning and some others keep numbers among the tensors.
            return keys, {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        keys.append(wrapper)
        content = content[wrapper]
    return keys, {}


def _strip(
    state: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """Return the weights under the module's names, and the prefix that they had.

    What lies outside the prefix (metrics, a loss, another copy) is not the module's; a name that
    is under the prefix and still unknown stays, for the error message.
    """
    state = {k.replace(_COMPILED, ""): v for k, v in state.items()}
    for prefix in _prefixes(state, expected):
        if all(prefix + k in state for k in expected):
            found = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            found.pop("n_averaged", None)
            return prefix, found
    # A wrapper around some parts only, as DataParallel around a backbone.
    bare = {_without(k, "module.", expected): v for k, v in state.items()}
    bare.pop("n_averaged", None)
    return "", bare


def _prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield what may stand before the names, none first, then averages."""
    first = next(iter(expected), "")
    found = {k[: -len(first)] for k in state if first and k.endswith("." + first)}
    yield ""
    yield from sorted(found, key=lambda p: (not set(p.split(".")) & set(_AVERAGES), len(p), p))


def _without(key: str, part: str, expected: Mapping[str, Tensor]) -> str:
    short = key.replace(part, "")
    return short if key not in expected and short in expected else key


def _counters(module: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in module.state_dict().items() if k.endswith(_COUNTERS)}


def _check_head(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str, name: str
) -> None:
    """Say so where nothing but the number of classes differs."""
    if state.keys() - {k for k in state if k.endswith(_COUNTERS)} != expected.keys():
        return
    shapes = {k: (tuple(state[k].shape), tuple(v.shape)) for k, v in expected.items()}
    different = {k: pair for k, pair in shapes.items() if pair[0] != pair[1]}
    counts = {(own[:1], theirs[:1]) for own, theirs in different.values()}
    same_rest = all(own[1:] == theirs[1:] for own, theirs in different.values())
    layers = {k.rpartition(".")[0] for k in different}
    whole_layer = {k for k in expected if k.rpartition(".")[0] in layers} == different.keys()
    if len(layers) != 1 or len(counts) != 1 or not (same_rest and whole_layer):
        return
    ((found,), (built,)) = counts.pop()
    raise EdgewfError(
        f"{path}: does not fit {name}: its {layers.pop()} has {found} classes, "
        f"the model was built with {built}: give --classes {found}, or build it with {found}"
    )
