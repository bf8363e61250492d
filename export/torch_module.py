"""From a PyTorch module to a canonical ONNX graph. Torch is a front end and nothing more."""

from __future__ import annotations

import hashlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.builder import OPSET
from edgewf.export.canonical import canonicalize

if TYPE_CHECKING:
    from torch import nn


def to_graph(module: nn.Module, name: str, image_size: int) -> ir.Model:
    """Export `module` in evaluation mode, its BatchNorm layers unfolded, and canonicalize it.

    Args:
        module: maps float32 [B, 3, S, S], normalised, to logits [B, K].
        name: for error messages.
        image_size: S, in pixels.

    Raises:
        EdgewfError: the module refuses such a batch, or PyTorch cannot trace it; see also
            `canonicalize`.
    """
    import torch

    module = module.eval().cpu().float()
    example = torch.zeros(2, 3, image_size, image_size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # The exporter's own errors bury the module's.
            with torch.no_grad():
                module(example)
            program = torch.onnx.export(
                module,
                (example,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                optimize=False,  # the optimizer would fold BatchNorm into the convolutions
                verbose=False,
            )
        except Exception as error:
            raise EdgewfError(
                f"{name}: cannot be run and traced on a batch [2, 3, {image_size}, {image_size}]: "
                f"{_root_cause(error)}; the model must map a float batch [B, 3, {image_size}, "
                f"{image_size}] to [B, classes]"
            ) from error
    assert program is not None
    return canonicalize(program.model, name)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])


def fingerprint(state: dict[str, Any]) -> str:
    """Return a hash of the weights that does not depend on how they were exported."""
    digest = hashlib.sha256()
    for key in sorted(state):
        if key.endswith("num_batches_tracked"):
            continue
        array = state[key].detach().cpu().numpy()
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_weights(module: nn.Module, path: str, name: str) -> None:
    """Load a checkpoint: a state dict, bare or under `state_dict` or `model`.

    Raises:
        EdgewfError: unreadable file, or keys and shapes that do not fit the module.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise EdgewfError(f"{path}: no such weights file for {name}") from None
    except Exception as error:
        raise EdgewfError(
            f"{path}: not a PyTorch checkpoint that loads without running code "
            f"({type(error).__name__}); save one with torch.save(model.state_dict(), FILE)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise EdgewfError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    if state and all(str(key).startswith("module.") for key in state):
        state = {str(key).removeprefix("module."): value for key, value in state.items()}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise EdgewfError(
            f"{path}: does not fit {name}: {lines[0]}"
            + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")
        ) from error
