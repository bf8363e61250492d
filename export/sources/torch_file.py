"""Networks that PyTorch saved with their graph: TorchScript and `torch.export` programs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from edgewf.errors import EdgewfError
from edgewf.export.builder import OPSET
from edgewf.export.canonical import canonicalize
from edgewf.export.sources import Source, check_classes, imagenet_convention
from edgewf.export.torch_module import fingerprint, quiet_exporter, refused

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def load_torchscript(
    path: str, classes: int | None, image_size: int | None, head: str | None
) -> Source:
    """Read an archive of `torch.jit.save`.

    Args:
        path: the file.
        classes: what the caller expects the model to have, if anything.
        image_size: side of the input in pixels, None for 224.
        head: name of the output to keep, where there are several.

    Raises:
        EdgewfError: unreadable, frozen or saved in training mode; see also `canonicalize`.
    """
    import torch

    with _readable(path, "TorchScript archive"):
        module: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    state = module.state_dict()
    if not state:
        raise EdgewfError(
            f"{path}: a frozen TorchScript module, its weights are constants and BatchNorm is "
            "folded into the convolutions: save it before torch.jit.freeze and "
            "torch.jit.optimize_for_inference"
        )
    size = image_size or 224
    converting = refused(path, "cannot be converted to ONNX", size)
    with tempfile.TemporaryDirectory() as folder, quiet_exporter(), converting:
        file = Path(folder) / "model.onnx"
        # Scripted code is no Python to trace, so the exporter that reads it is the older one.
        torch.onnx.export(
            module.eval().float(),
            (torch.zeros(2, 3, size, size),),
            file,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )
        graph = ir.external_data.load_to_model(ir.load(file))
    advice = "save it before torch.jit.freeze and torch.jit.optimize_for_inference"
    return _source(path, canonicalize(graph, path, head=head, unfold=advice), state, classes)


def load_program(
    path: str, classes: int | None, image_size: int | None, head: str | None
) -> Source:
    """Read an archive of `torch.export.save`.

    Args:
        path: the file.
        classes: what the caller expects the model to have, if anything.
        image_size: side of the input in pixels, for programs that leave it open.
        head: name of the output to keep, where there are several.

    Raises:
        EdgewfError: unreadable or exported in training mode; see also `canonicalize`.
    """
    import torch

    with _readable(path, "torch.export program"):
        program = torch.export.load(path)
    _check_evaluation(program, path)
    with quiet_exporter(), refused(path, "cannot be converted to ONNX", image_size):
        converted = torch.onnx.export(
            program, opset_version=OPSET, dynamo=True, optimize=False, verbose=False
        )
    assert converted is not None
    graph = canonicalize(converted.model, path, image_size, head=head)
    return _source(path, graph, program.state_dict, classes)


@contextmanager
def _readable(path: str, kind: str) -> Iterator[None]:
    """Word what PyTorch's readers raise."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise EdgewfError(
            f"{path}: not a readable {kind} ({type(error).__name__}: {reason}); "
            "it may be truncated, or of another PyTorch: save it again"
        ) from error


def _check_evaluation(program: ExportedProgram, path: str) -> None:
    """A program keeps the mode of its layers as arguments of their operators."""
    for node in program.graph.nodes:
        target = str(node.target)
        training = "batch_norm_legit.default" in target or "batch_norm_legit_functional" in target
        if target == "aten.batch_norm.default":
            training = bool(node.args[5])
        if training:
            raise EdgewfError(
                f"{path}: {node.name} is in training mode; export the model in evaluation mode: "
                "torch.export.export(model.eval(), ...)"
            )


def _source(path: str, graph: ir.Model, state: dict[str, Any], classes: int | None) -> Source:
    check_classes(graph, path, classes)
    shape = graph.graph.inputs[0].shape
    assert shape is not None
    return Source(
        name=Path(path).stem,
        origin=path,
        graph=graph,
        preprocessing=imagenet_convention(int(shape[2])),  # type: ignore[arg-type]
        labels=None,
        fingerprint=fingerprint(state),
    )
