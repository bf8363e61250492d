"""`edgewf export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgewf.commands.options import stderr_console
from edgewf.errors import EdgewfError

if TYPE_CHECKING:
    from rich.console import Console

    from edgewf.bundle import Bundle
    from edgewf.engines.tensorrt_builder import PlanBuilder


DEFAULT_MODEL = "efficientnet_lite0"


def _triple(_: click.Context, option: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 3):
        raise click.BadParameter(f"{value!r}: give one number or three, as in 0.485,0.456,0.406")
    return numbers * 3 if len(numbers) == 1 else numbers


@click.command(
    epilog="""\b
Examples:
  edgewf export
  edgewf export --model resnet50
  edgewf export --model resnet18 --weights checkpoint.pth --classes 12 --labels names.txt
  edgewf export --model mypackage.nets:build --image-size 160 --output bundles/mine
  edgewf export --model classifier.pt2
  edgewf export --onnx classifier.onnx --mean 0.5 --std 0.5
  edgewf export --model resnet50 --precision fp16 --memory low
  edgewf export --model mypackage.nets:build --check tensorrt
"""
)
@click.option(
    "--model",
    metavar="NAME|FILE",
    help="efficientnet_lite0 (the default), 1 or 2, a torchvision name, timm/NAME, "
    "MODULE:CALLABLE, or a TorchScript, torch.export (.pt2) or ONNX file.",
)
@click.option(
    "--weights",
    metavar="default|none|FILE",
    default="default",
    show_default=True,
    help="Published weights, random ones, or a PyTorch or safetensors checkpoint.",
)
@click.option("--onnx", metavar="FILE", help="An ONNX classifier with unfolded BatchNorm.")
@click.option("--head", metavar="NAME", help="The output with the logits, of several.")
@click.option("--classes", type=click.IntRange(2), metavar="N", help="Number of classes.")
@click.option(
    "--labels", metavar="FILE", help="Class names: one a line, NAME or ID<TAB>NAME, or JSON."
)
@click.option("--image-size", type=click.IntRange(8), metavar="S", help="Input side in pixels.")
@click.option("--resize", type=click.IntRange(8), metavar="R", help="Shorter side before the crop.")
@click.option("--interpolation", type=click.Choice(["bilinear", "bicubic"]), help="Of the resize.")
@click.option("--mean", callback=_triple, metavar="R,G,B", help="Of pixels scaled to [0, 1].")
@click.option("--std", callback=_triple, metavar="R,G,B", help="Of pixels scaled to [0, 1].")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Bundle folder to write.  [default: bundles/NAME]",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16: half-precision convolutions and activations, for GPUs.",
)
@click.option(
    "--memory",
    type=click.Choice(["normal", "low"]),
    default="normal",
    show_default=True,
    help="low: a step keeps fewer activations and computes more again.",
)
@click.option(
    "--check",
    type=click.Choice(["tensorrt"]),
    help="Then build every graph with TensorRT and say which node it refuses.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
def export(
    model: str | None,
    weights: str,
    onnx: str | None,
    head: str | None,
    classes: int | None,
    labels: str | None,
    output: Path | None,
    precision: str,
    memory: str,
    check: str | None,
    force: bool,
    **preprocessing: Any,
) -> None:
    """Export a classifier as a bundle for the device."""
    if model is not None and onnx is not None:
        raise EdgewfError("--model and --onnx exclude each other: give one of them")
    console = stderr_console()
    try:
        from edgewf.export.exporter import export_bundle
        from edgewf.export.sources.model_file import is_file_name
        from edgewf.export.sources.registry import load_source
        from edgewf.export.storage import check_output
    except ImportError as error:
        raise EdgewfError(
            f"exporting needs {error.name}, which is not installed: pip install 'edgewf[export]'"
        ) from error
    from edgewf.engines.tensorrt_builder import PlanBuilder
    from edgewf.labels import read_labels
    from edgewf.report import bundle_report

    builder = PlanBuilder() if check == "tensorrt" else None  # fails before the work, if it does
    names = None if labels is None else read_labels(labels)
    chosen = None if onnx is not None else model or DEFAULT_MODEL
    file = chosen if chosen is not None and is_file_name(chosen) else onnx
    folder = output or Path("bundles") / _bundle_name(chosen, file)
    check_output(folder, overwrite=force)
    with console.status(f"exporting {chosen or onnx}"):
        source = load_source(
            chosen,
            onnx=onnx,
            head=head,
            weights=weights,
            classes=classes if classes or file or names is None else len(names),
            **preprocessing,
        )
        bundle = export_bundle(
            source,
            folder,
            labels=names,
            precision=precision,
            low_memory=memory == "low",
            overwrite=force,
        )
    console.print(bundle_report(bundle))
    if builder is not None:
        _check_tensorrt(console, builder, bundle)


def _check_tensorrt(console: Console, builder: PlanBuilder, bundle: Bundle) -> None:
    """Show what TensorRT says of each graph; raise the first refusal."""
    from edgewf.engines.tensorrt_builder import check_bundle
    from edgewf.report import check_progress, check_report

    with check_progress(console) as on_graph:
        try:
            verdicts = check_bundle(bundle, builder, on_graph)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the bundle {bundle.folder} is complete") from None
    console.print(check_report(verdicts, builder.version))
    refusal = next((v.error for v in verdicts if v.error is not None), None)
    if refusal is not None:
        raise refusal


def _bundle_name(model: str | None, file: str | None) -> str:
    return Path(file).stem if file is not None else str(model).rpartition(":")[2]
