"""Published label-free estimators under corruptions that their calibration never saw.

    python -m benchmarks.accuracy.baselines --bundle BUNDLE --data DIR

The same images, windows and kinds of corruption as `benchmarks.accuracy.held_out` (some of them
are drawn anew by every run), and the same quadratic fit. These scores need nothing but the
deployed network's logits, so no burst runs. Finished windows are kept below build/, so an
interrupted run goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.accuracy.cells import Cell, errors_of, halves, shifted
from benchmarks.accuracy.held_out import CLEAN, EVALUATION
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.engines import BurstRecord, Engine, Float32, Images, Predictions
from edgewf.engines.select import select_engine
from edgewf.estimators.quadratic import Quadratic
from edgewf.estimators.rows import confidence
from edgewf.estimators.score import Score
from edgewf.estimators.table import SCORES
from edgewf.estimators.temperature import Tempered, fit_temperature
from edgewf.kernels.reference import labels as top_labels
from edgewf.shifts import calibration_shifts

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Seen:
    """The deployed network's predictions on one window, and the truth."""

    cell: Cell
    logits: Float32
    labels: Labels

    @property
    def accuracy(self) -> float:
        """Percent."""
        return float(100 * (top_labels(self.logits) == self.labels).mean())

    @property
    def record(self) -> BurstRecord:
        """What a burst without any step would read back."""
        deployed = Predictions(top_labels(self.logits), confidence(self.logits), self.logits)
        return BurstRecord(deployed, deployed, deployed, (), 0.0)


def look(
    engine: Engine,
    images: Images,
    labels: Labels,
    cells: list[Cell],
    window: int,
    batch: int,
    folder: Path,
) -> Iterator[Seen]:
    """Infer every cell of a window that is not kept in `folder` yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for cell in track(cells, folder.name):
        kept = folder / f"{cell[0]}-{cell[1]}.npy"
        if not kept.exists():
            frames = shifted(images, cell, window)
            parts = [engine.infer(frames[i : i + batch]) for i in range(0, len(frames), batch)]
            np.save(kept, np.concatenate(parts))
        yield Seen(cell, np.load(kept), labels)


def judge(score: Score, calibration: list[Seen], evaluation: list[Seen]) -> dict[str, float | str]:
    """Fit a quadratic from the score to accuracy on `calibration`; errors on `evaluation`."""
    clean = next(x for x in calibration if x.cell == CLEAN)
    reference = score.reference(clean.record, clean.labels)
    known = [score(x.record, reference) for x in calibration]
    curve = Quadratic.fit(known, [x.accuracy for x in calibration], rising=True)
    start = time.perf_counter()
    found = [score(x.record, reference) for x in evaluation]
    seconds = (time.perf_counter() - start) / len(evaluation)
    errors = np.array([curve(s) - x.accuracy for s, x in zip(found, evaluation, strict=True)])
    return {
        "score": score.name,
        **errors_of(errors, [x.cell for x in evaluation]),
        "ms": 1e3 * seconds,
    }


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("benchmarks/results"))
@click.option("--windows", type=int, default=1, help="To calibrate on.")
@click.option("--engine", "engine_name", default="auto")
@click.option("--batch-size", type=int)
@click.option("--window", type=int)
def main(
    bundle: Path, data: Path, output: Path, windows: int, engine_name: str, **burst: object
) -> None:
    """Print the table and write it as Markdown and JSON."""
    loaded = Bundle.load(bundle)
    settings = loaded.manifest.burst.with_changes(**burst)
    engine = select_engine(engine_name, loaded, None).engine
    stem = f"baselines_{loaded.manifest.model}_{data.name}"
    folder = Path("build") / stem / f"window{settings.window}"
    first, second = halves(loaded, data, settings.window, windows)
    batch = settings.batch_size
    calibration = [
        seen
        for i, (images, labels) in enumerate(first)
        for seen in look(
            engine, images, labels, calibration_shifts(), i, batch, folder / f"calibration{i}"
        )
    ]
    evaluation = [*look(engine, *second, EVALUATION, 0, batch, folder / "evaluation")]
    clean = next(x for x in calibration if x.cell == CLEAN)
    temperature = fit_temperature(clean.logits, clean.labels)
    scores = [*SCORES.values(), *(Tempered(score) for score in SCORES.values())]
    rows = [judge(score, calibration, evaluation) for score in track(scores, "judging")]
    lines = [
        f"# Published label-free scores: {loaded.manifest.model} on {data.name}",
        "",
        f"`python -m benchmarks.accuracy.baselines`: {len(calibration)} calibration windows, "
        f"{len(evaluation)} others under the 15 corruptions of ImageNet-C x 5 severities, "
        f"{settings.window} frames each; a quadratic maps each score to accuracy. Tempered: of "
        f"logits divided by {temperature:.2f}, which suits clean images. Engine {engine.name}; "
        f"{machine_line()}.",
        "",
        "| score | MAE | bias | worst error | in cell | ms a window |",
        "|---|---:|---:|---:|---|---:|",
        *(
            f"| {r['score']} | {r['mae']:.2f} | {r['bias']:+.2f} | {r['worst']:+.1f} "
            f"| {r['worst_cell']} | {r['ms']:.1f} |"
            for r in rows
        ),
    ]
    text = "\n".join(lines) + "\n"
    target = output / "accuracy"
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / f"{stem}.md", text)
    record = {"machine": describe_machine(), "settings": settings.to_json(), "rows": rows}
    write_text(target / f"{stem}.json", json.dumps(record, indent=1) + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
