"""The command line: each command a thin call into the rooms below.

Nothing heavy is imported until a command needs it, so that `edgewf --help` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgewf import __version__
from edgewf.errors import EdgewfError

if TYPE_CHECKING:
    from rich.console import Console

    from edgewf.bundle import Bundle
    from edgewf.calibration import Calibration
    from edgewf.engines.tensorrt_builder import PlanBuilder
    from edgewf.settings import BurstSettings

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_MODEL = "efficientnet_lite0"
ENGINES = ("auto", "tensorrt", "ort-tensorrt", "ort-cuda", "openvino", "onnxruntime")
EXIT_ALERT = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class _Group(click.Group):
    """Turns what a user can mend into one line on stderr and exit status 2."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except EdgewfError as error:
            click.echo(f"edgewf: {error}", err=True)
            context.exit(EXIT_USAGE)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of stdout has gone
        except OSError as error:
            click.echo(f"edgewf: {error.filename or 'input or output'}: {error.strerror}", err=True)
            context.exit(EXIT_USAGE)
        except KeyboardInterrupt as interrupt:
            click.echo(": ".join(["edgewf: interrupted", *map(str, interrupt.args)]), err=True)
            context.exit(EXIT_INTERRUPTED)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: edgewf export; edgewf monitor bundles/efficientnet_lite0 --source demo",
)
@click.version_option(__version__, prog_name="edgewf")
def main() -> None:
    """How accurate is the image classifier on this device right now, without labels?

    edgewf exports a classifier with only its BatchNorm scale and shift trainable, runs short
    bursts of entropy minimisation on live frames, counts how many predictions flip, and turns
    that into an accuracy with an interval.
    """


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


@main.command(
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
    help="efficientnet_lite0 (the default), a torchvision name, timm/NAME, MODULE:CALLABLE, or a "
    "TorchScript, torch.export (.pt2) or ONNX file.",
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
    console = _console()
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


@main.command(epilog="Example: edgewf inspect bundles/efficientnet_lite0")
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Check a bundle and show what is inside."""
    from edgewf.bundle import Bundle
    from edgewf.report import bundle_record, bundle_report

    loaded = Bundle.load(bundle)
    if as_json:
        click.echo(json.dumps(bundle_record(loaded)))
    else:
        _console().print(bundle_report(loaded))


@main.command(
    epilog="""\b
Engines are built for this machine's GPU; those of TensorRT for RTX fit any, and need none to be
built. They are kept in BUNDLE/engines and built again where graphs, TensorRT or GPU changed.
Examples:
  edgewf build bundles/efficientnet_lite0
  edgewf build bundles/resnet50 --batch-size 100 --json
"""
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    metavar="B",
    help="Frames a batch of the bursts to come.  [default: the bundle's]",
)
@click.option("--force", is_flag=True, help="Build engines that are already there again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def build(bundle: Path, batch_size: int | None, force: bool, as_json: bool) -> None:
    """Build a bundle's TensorRT engines ahead of time."""
    from edgewf.bundle import Bundle
    from edgewf.engines.tensorrt_builder import PlanBuilder
    from edgewf.engines.tensorrt_plans import batches_for, build_plans, target_here
    from edgewf.report import build_record, build_report, check_progress

    console = _console()
    loaded = Bundle.load(bundle)
    builder = PlanBuilder()
    target = target_here(builder.version)
    batches = batches_for(loaded, batch_size or loaded.manifest.burst.batch_size)
    with check_progress(console) as on_graph:
        plans = build_plans(loaded, batches, target, lambda: builder, on_graph, force=force)
    if as_json:
        click.echo(json.dumps(build_record(plans, target, batches)))
    else:
        console.print(build_report(plans, target, batches))


@main.command(epilog="Example: edgewf doctor --json | jq .engines")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def doctor(as_json: bool) -> None:
    """Say what this machine has, and which engines can run on it."""
    from edgewf.doctor import examine
    from edgewf.doctor.table import doctor_report

    console = _console()
    with console.status("looking around"):
        findings = examine()
    if as_json:
        click.echo(json.dumps(findings))
    else:
        console.print(doctor_report(findings))


def _burst_options(command: Command) -> Command:
    options = [
        click.option("--objective", type=click.Choice(["tent", "rdumb"]), help="What adapts."),
        click.option("--steps", type=click.IntRange(0), metavar="N", help="Steps of a burst."),
        click.option("--batch-size", type=click.IntRange(2), metavar="B", help="Frames a batch."),
        click.option("--window", type=click.IntRange(2), metavar="N", help="Frames an estimate."),
        click.option(
            "--source-samples",
            type=click.FloatRange(0),
            metavar="N",
            help="Samples that the running statistics count for in a batch.",
        ),
        click.option("--learning-rate", type=float, metavar="LR", help="Of the SGD steps."),
        click.option("--seed", type=click.IntRange(0), metavar="N", help="Of every random order."),
        click.option(
            "--engine",
            "engine_name",
            type=click.Choice(ENGINES),
            default=ENGINES[0],
            show_default=True,
            help="What runs the model; `edgewf doctor` says which can.",
        ),
        click.option(
            "--threads", type=click.IntRange(1), metavar="N", help="Threads of a CPU engine."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command(
    epilog="""\b
The sub-folders of DIR name the classes by id (wnid), name or index.
Interrupt it at any time: finished points are kept and the next call goes on from them.
Example: edgewf calibrate bundles/efficientnet_lite0 --data imagenet-val
"""
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", metavar="DIR", required=True, help="Labelled images.")
@click.option(
    "--windows",
    type=click.IntRange(1),
    metavar="W",
    help="Disjoint sets of images, each shifted in every way.  [default: 2 if there are enough]",
)
@click.option("--description", metavar="TEXT", help="Recorded with the result.  [default: DIR]")
@_burst_options
def calibrate(
    bundle: Path,
    data: str,
    windows: int | None,
    description: str | None,
    engine_name: str,
    threads: int | None,
    **burst: Any,
) -> None:
    """Fit the function from flips to accuracy on labelled images."""
    from edgewf.bundle import Bundle
    from edgewf.calibrate import calibrate as run
    from edgewf.calibrate import draw_windows
    from edgewf.engines.select import select_engine
    from edgewf.images import labelled_images
    from edgewf.report import calibration_progress, calibration_report

    console = _console()
    loaded = Bundle.load(bundle)
    settings = loaded.manifest.burst.with_changes(**burst)
    images = labelled_images(data, loaded.labels)
    count = windows or min(2, max(1, len(images) // settings.window))
    drawn = draw_windows(images, settings, count)
    selection = select_engine(engine_name, loaded, threads)
    click.echo(f"edgewf: {selection}", err=True)
    with calibration_progress(console) as on_point:
        try:
            result = run(
                loaded,
                selection.engine,
                drawn,
                settings,
                description=description or str(data),
                on_point=on_point,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("finished points are kept") from None
    console.print(calibration_report(result))


@main.command(
    epilog="""\b
Examples:
  edgewf estimate bundles/efficientnet_lite0 --data frames/
  edgewf estimate bundles/efficientnet_lite0 --data imagenet-val --labelled --json
"""
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--data", metavar="DIR|VIDEO", required=True, help="Folder of images, or a video.")
@click.option("--labelled", is_flag=True, help="Sub-folder names are the truth; show the error.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@_burst_options
def estimate(
    bundle: Path,
    data: str,
    labelled: bool,
    as_json: bool,
    engine_name: str,
    threads: int | None,
    **burst: Any,
) -> None:
    """Estimate the accuracy on one window drawn from images or a video."""
    import time

    from edgewf.engines.select import select_engine
    from edgewf.estimation import Estimator
    from edgewf.report import burst_progress, estimate_report
    from edgewf.stream import draw_window, open_source

    console = _console()
    loaded, calibration, settings = _open(bundle, burst)
    # Refuses settings that do not fit before it reads a long video.
    selection = select_engine(engine_name, loaded, threads)
    estimator = Estimator(loaded, selection.engine, calibration, settings)
    source = open_source(data, labels=loaded.labels if labelled else None, seed=settings.seed)
    window, available = draw_window(
        source, loaded.manifest.preprocessing, settings.window, settings.seed
    )
    click.echo(f"edgewf: {selection}", err=True)
    with burst_progress(console) as progress:
        result = estimator(
            window.images, window.labels, source=source.uri, time=time.time(), progress=progress
        )
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        console.print(estimate_report(result, settings, available))


@main.command(
    epilog="""\b
Sources: /dev/video0, v4l2:///dev/video0, rtsp://..., http://..., csi://0, a video file,
a folder of images, demo. Exit status: 0, 1 if the accuracy fell below --alert-below, 2 on errors.
Examples:
  edgewf monitor bundles/efficientnet_lite0 --source demo
  edgewf monitor BUNDLE --source rtsp://camera/stream --alert-below 60 --hook ./page-me
  edgewf monitor BUNDLE --source /dev/video0 --json | jq .accuracy
"""
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--source", "uri", metavar="URI", required=True, help="Where frames come from.")
@click.option("--labelled", is_flag=True, help="Sub-folder names of a folder are the truth.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an estimate on stdout.")
@click.option("--output", metavar="FILE", help="Append the JSON lines to a file.")
@click.option(
    "--alert-below", type=click.FloatRange(0, 100), metavar="PERCENT", help="Alert under this."
)
@click.option("--hook", metavar="COMMAND", help="Run when the alert goes on and off.")
@click.option("--max-windows", type=click.IntRange(1), metavar="N", help="Stop after N estimates.")
@click.option(
    "--stride",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Look at every N-th frame.",
)
@_burst_options
def monitor(
    bundle: Path,
    uri: str,
    labelled: bool,
    as_json: bool,
    output: str | None,
    alert_below: float | None,
    hook: str | None,
    max_windows: int | None,
    stride: int,
    engine_name: str,
    threads: int | None,
    **burst: Any,
) -> None:
    """Watch a stream and estimate the accuracy window by window."""
    from edgewf.engines.select import select_engine
    from edgewf.estimation import Estimator
    from edgewf.monitor import Listener
    from edgewf.monitor import monitor as run
    from edgewf.report import summary_line
    from edgewf.stream import WindowSampler, open_source
    from edgewf.telemetry import AlertBelow, JsonLines, Session, open_display

    if hook is not None and alert_below is None:
        raise EdgewfError("--hook needs --alert-below PERCENT: there is nothing to tell it of")
    loaded, calibration, settings = _open(bundle, burst)
    if calibration is None and alert_below is not None:
        raise EdgewfError(
            f"--alert-below needs an accuracy, and {bundle} has no calibration: run "
            f"`edgewf calibrate {bundle} --data DIR` first"
        )
    selection = select_engine(engine_name, loaded, threads)
    estimator = Estimator(loaded, selection.engine, calibration, settings)
    source = open_source(uri, labels=loaded.labels if labelled else None, seed=settings.seed)
    alert = None if alert_below is None else AlertBelow(alert_below, hook)
    listeners: list[Listener] = [] if alert is None else [alert]
    if as_json:
        listeners.append(JsonLines(None))
    if output is not None:
        listeners.append(JsonLines(output))
    session = Session(
        loaded.manifest.model, source.uri, source.frames_total, settings.window, alert
    )
    click.echo(f"edgewf: {selection}", err=True)
    shared_terminal = as_json and sys.stdout.isatty()
    listeners.append(open_display(session, live=False if shared_terminal else None))
    summary = run(
        source,
        loaded.manifest.preprocessing,
        WindowSampler(settings.window, stride),
        estimator,
        listeners=listeners,
        max_windows=max_windows,
    )
    _console().print(summary_line(summary), highlight=False)
    if alert is not None and alert.fired:
        sys.exit(EXIT_ALERT)


def _open(folder: Path, burst: dict[str, Any]) -> tuple[Bundle, Calibration | None, BurstSettings]:
    """Load a bundle, its calibration, and the burst that the options ask for."""
    from edgewf.bundle import Bundle
    from edgewf.calibration import Calibration

    bundle = Bundle.load(folder)
    calibration = Calibration.of(bundle)
    base = bundle.manifest.burst if calibration is None else calibration.settings
    if calibration is None:
        click.echo(
            f"edgewf: {folder} has no calibration: flips are shown, but no accuracy; "
            f"run `edgewf calibrate {folder} --data DIR` on labelled images",
            err=True,
        )
    settings = base.with_changes(**burst)
    if calibration is not None:
        calibration.check(bundle.manifest, settings)  # before an engine is built, which may last
    return bundle, calibration, settings


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


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)
