"""Whether labels seen during the last steps can stand for those after them, which would be free.

    python -m benchmarks.accuracy.last_pass --bundle BUNDLE --data DIR --window 512 --batch-size 64

A burst whose steps go through its window a whole number of times has seen every frame during its
last pass, under parameters that were not final yet. Windows are those of
`benchmarks.accuracy.held_out` under the 15 corruptions; finished bursts are kept.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.accuracy import options
from benchmarks.accuracy.bank import Bank, kept_in, points, references
from benchmarks.accuracy.errors import judge
from benchmarks.accuracy.windows import of_kind, windows
from benchmarks.machine import machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.burst import Progress, run_burst, step_batches
from edgewf.calibration import fit_points
from edgewf.commands.explaining import ExplainingCommand
from edgewf.dropout import DropoutInference
from edgewf.engines import BurstRecord, Engine, Float32, Images
from edgewf.engines.host import HostEngine, LogitsGradient, predictions
from edgewf.engines.select import select_engine
from edgewf.errors import EdgewfError
from edgewf.estimators import DEFAULT
from edgewf.settings import BurstSettings

NAMES = (DEFAULT, "soft-agreement-tempered", "weighted-flips", "flips")


def last_pass(
    engine: Engine,
    images: Images,
    settings: BurstSettings,
    progress: Progress,
    dropout: DropoutInference | None = None,
) -> BurstRecord:
    """Run a burst as `run_burst` does, with the logits of the last pass for those after it."""
    if not isinstance(engine, HostEngine):
        raise EdgewfError("logits of steps are read of CPU engines alone: use --engine openvino")
    frames = len(images)
    parts = frames // settings.batch_size
    seen: list[Float32] = []
    gradient = engine.gradient

    def watched(batch: Images, dlogits: LogitsGradient) -> Float32:
        def watch(logits: Float32) -> Float32:
            seen.append(logits.copy())
            return dlogits(logits)

        return gradient(batch, watch)

    class Unprobed:
        """The engine, with a last look that costs nothing."""

        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

        def probe(self, images: Images) -> None:
            engine._after.append(engine._before[len(engine._after)])

    engine.gradient = watched  # type: ignore[method-assign]
    try:
        record = run_burst(Unprobed(), images, settings, progress, dropout).record
    finally:
        del engine.gradient  # that of the class comes back
    after = np.empty_like(record.after.logits)
    batches = list(step_batches(frames, settings))[-parts:]
    for batch, logits in zip(batches, seen[-parts:], strict=True):
        after[batch] = logits
    return replace(record, after=predictions(after))


@click.command(cls=ExplainingCommand)
@options.BUNDLE
@options.DATA
@options.OUTPUT
@options.WORK
@options.CALIBRATIONS
@click.option("--engine", "engine_name", default="openvino", show_default=True)
@click.option("--passes", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True)
@options.BATCH_SIZE
@options.WINDOW
def main(
    bundle: Path,
    data: Path,
    output: Path,
    work: Path,
    calibrations: int,
    engine_name: str,
    passes: tuple[int, ...],
    **burst: object,
) -> None:
    """Print the table and write it as Markdown."""
    loaded = Bundle.load(bundle)
    engine = select_engine(engine_name, loaded, None).engine
    folder = kept_in(work, loaded, data, engine)
    start = loaded.manifest.burst.with_changes(**burst)
    rows = []
    for count in passes:
        settings = start.with_changes(steps=count * start.window // start.batch_size)
        chosen = windows(loaded, data, settings.window, calibrations)
        for what, bank in (
            ("a pass of its own", Bank(folder, engine, settings)),
            ("the last steps", Bank(folder / "last_pass", engine, settings, burst=last_pass)),
        ):
            calibration = bank.look(of_kind(chosen, "calibration"), what)
            known = references(calibration)
            judged = [
                x for x in bank.look(of_kind(chosen, "corruptions"), what) if x.window.cell[1] > 0
            ]
            fitted_to, found = points(calibration, known), points(judged, known)
            seconds = float(np.median([sum(x.seconds) for x in judged]))
            errors = (
                judge(fit_points(name, fitted_to), found, settings.window)["mae"] for name in NAMES
            )
            rows.append(
                f"| {settings.steps} | {what} | {seconds:.2f} | "
                + " | ".join(f"{error:.2f}" for error in errors)
                + " |"
            )
    lines = [
        f"# Labels after a burst: {loaded.manifest.model} on {data.name}",
        "",
        f"Windows of {start.window} in batches of {start.batch_size}, learning rate "
        f"{start.learning_rate:g}; the labels after come from a pass of its own or from the last "
        "steps. Mean absolute error in points over the 15 corruptions of ImageNet-C x 5 "
        f"severities. `python -m benchmarks.accuracy.last_pass`; {machine_line()}.",
        "",
        f"| steps | labels after from | seconds a burst | {' | '.join(NAMES)} |",
        "|---:|---|---:|" + "---:|" * len(NAMES),
        *rows,
    ]
    output.mkdir(parents=True, exist_ok=True)
    stem = f"last_pass_{loaded.manifest.model}_{data.name}.md"
    write_text(output / stem, "\n".join(lines) + "\n")
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
