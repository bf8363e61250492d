"""From a PyTorch module to a canonical ONNX graph. Torch is a front end and nothing more."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.builder import OPSET
from edgewf.export.canonical import canonicalize

if TYPE_CHECKING:
    from torch import Tensor, nn


def to_graph(module: nn.Module, name: str, image_size: int, head: str | None = None) -> ir.Model:
    """Export `module` in evaluation mode, its BatchNorm layers unfolded, and canonicalize it.

    Args:
        module: maps float32 [B, 3, S, S], normalised, to logits [B, K].
        name: for error messages.
        image_size: S, in pixels.
        head: key or index of the logits in what the module returns, where that is several
            tensors; None where it is one.

    Raises:
        EdgewfError: the module refuses such a batch, has several heads to choose from, or PyTorch
            cannot trace it; see also `canonicalize`.
    """
    import torch

    module = module.eval().cpu().float()
    example = torch.zeros(2, 3, image_size, image_size)
    shape = f"[2, 3, {image_size}, {image_size}]"
    # The exporter's own errors bury the module's.
    failed_run = refused(name, f"cannot be run on a batch {shape}", image_size)
    with quiet_exporter(), failed_run, torch.no_grad():
        returned = module(example)
    if not isinstance(returned, torch.Tensor):
        module = _one_head(module, _choose_head(dict(_tensors(returned)), name, head))
    elif head is not None:
        raise EdgewfError(f"{name}: returns one tensor: leave --head {head} out")
    with quiet_exporter(), refused(name, f"cannot be traced on a batch {shape}", image_size):
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
    assert program is not None
    return canonicalize(program.model, name)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence PyTorch's exporter, which reports its own progress and doubts."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def refused(name: str, what: str, image_size: int | None) -> Iterator[None]:
    """Turn whatever PyTorch raises into an error with its innermost cause and the fix."""
    side = "S" if image_size is None else image_size
    try:
        yield
    except Exception as error:
        raise EdgewfError(
            f"{name}: {what}: {_root_cause(error)}; the model must map a float batch "
            f"[B, 3, {side}, {side}] to [B, classes]"
        ) from error


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    # TorchScript's interpreter quotes the code first and tells the cause last.
    return lines[-1] if "TorchScript" in lines[0] else f"{type(error).__name__}: {lines[0]}".strip()


def _tensors(returned: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested mappings and sequences, named by their keys: "aux", "1.0"."""
    import torch

    if isinstance(returned, torch.Tensor):
        yield prefix, returned
        return
    parts: Any = ()
    if isinstance(returned, Mapping):
        parts = returned.items()
    elif isinstance(returned, (tuple, list)):
        names = getattr(returned, "_fields", range(len(returned)))
        parts = zip(names, returned, strict=True)
    for key, value in parts:
        yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))


def _choose_head(heads: Mapping[str, Tensor], name: str, head: str | None) -> str:
    described = ", ".join(f"{key} {list(value.shape)}" for key, value in heads.items())
    if not heads:
        raise EdgewfError(f"{name}: returns no tensor; the model must return logits [B, classes]")
    if head is not None and head not in heads:
        raise EdgewfError(f"{name}: no output {head!r}; --head takes one of {described}")
    if head is None and len(heads) > 1:
        raise EdgewfError(
            f"{name}: returns {len(heads)} outputs ({described}); edgewf adapts on one batch of "
            "logits: choose the main one with --head NAME"
        )
    return head if head is not None else next(iter(heads))


def _one_head(module: nn.Module, head: str) -> nn.Module:
    from torch import nn

    class OneHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, images: Tensor) -> Tensor:
            return dict(_tensors(self.module(images)))[head]

    return OneHead().eval()


def fingerprint(state: Mapping[str, Any]) -> str:
    """Return a hash of the weights that does not depend on how they were exported."""
    digest = hashlib.sha256()
    for key in sorted(state):
        if key.endswith("num_batches_tracked"):
            continue
        array = state[key].detach().cpu().numpy()
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
