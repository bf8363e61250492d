"""How far estimates are off when a camera shows one class after the other.

    python -m benchmarks.stream.sampler --bundle BUNDLE --data DIR

Calibrates on the first half of the labelled images of DIR. The second half becomes streams: things
in order of their class, and a pan over photographs; clean and under corruptions of ImageNet-C that
the calibration did not see. Windows are made of them in three ways, and beside them of the same
frames shuffled. What is finished is kept in build/stream, so an interrupted run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.bank import Bank, deployed_predictions, kept_in, points, references
from benchmarks.accuracy.windows import CLEAN, of_kind, shifted, stream, windows
from benchmarks.machine import describe_machine, machine_line
from benchmarks.stream.scenes import scenes
from edgewf.bundle import Bundle, write_text
from edgewf.burst import run_burst
from edgewf.calibration import fit_points
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines import Engine, Images, Predictions
from edgewf.engines.select import select_engine
from edgewf.estimators import DEFAULT
from edgewf.estimators.fitted import Fitted
from edgewf.estimators.table import References, evaluate
from edgewf.flags import effective_classes
from edgewf.scheduling import ConfidenceDrift
from edgewf.settings import BurstSettings
from edgewf.stream.sampler import PAST, Window, WindowSampler
from edgewf.weighting import effective_frames, reweighted

CORRUPTIONS = ("brightness", "contrast", "jpeg_compression")
SHUFFLED = "shuffled frames"
LAST = "last frames"
PLAIN = "balanced, without weights"
BALANCED = "balanced"
WAYS = (SHUFFLED, LAST, PLAIN, BALANCED)


@dataclass(frozen=True)
class Judged:
    """An estimate beside the accuracy of the deployed network on all frames it stands for.

    Attributes:
        estimate, truth: percent.
        classes: effective number of predicted ones in the window.
        frames: effective number of them.
        span: how many frames the window stands for.
    """

    estimate: float
    truth: float
    classes: float
    frames: float
    span: int

    @property
    def error(self) -> float:
        """In points."""
        return self.estimate - self.truth


class Judge:
    """Makes estimates of windows."""

    def __init__(
        self, engine: Engine, settings: BurstSettings, estimator: Fitted, known: References
    ) -> None:
        self.settings = settings
        self._engine, self._estimator, self._known = engine, estimator, known

    def infer(self, images: Images) -> Predictions:
        """Return what the deployed network makes of N images."""
        return deployed_predictions(self._engine, images, self.settings.batch_size)

    def look(self, window: Window, truth: float, span: int) -> tuple[Judged, Judged]:
        """Return an estimate from a window without its weights, and one with them."""
        record = run_burst(self._engine, window.images, self.settings).record
        classes = effective_classes(record.deployed.label)
        even = np.ones(len(window.images))
        first, second = (
            Judged(
                self._estimator(
                    evaluate(self._estimator.scores, reweighted(record, weights), self._known)
                ),
                truth,
                classes,
                effective_frames(weights),
                span,
            )
            for weights in (even, even if window.weights is None else window.weights)
        )
        return first, second


def sampled(
    frames: Images, predicted: Predictions, size: int, past: int, every: int
) -> Iterator[tuple[Window, slice]]:
    """Yield windows and what they stand for, as `edgewf.Monitor` makes them.

    Args:
        frames: of the stream.
        predicted: of them.
        size: frames in a window.
        past: see `WindowSampler`.
        every: of how many windows one, from when the longest past is over.
    """
    sampler = WindowSampler(size, past=past)
    drift = ConfidenceDrift(quiet=past * size)
    kept: list[int] = []  # frames that are no near-duplicates
    number = 0
    for i, image in enumerate(frames):
        if sampler.offer(image, prediction=int(predicted.label[i])):
            kept.append(i)
            if drift.update(float(predicted.confidence[i])) and not sampler.balanced:
                sampler.forget()
        if sampler.full:
            taken = sampler.take()
            if len(kept) >= PAST * size:
                if number % every == 0:
                    yield taken.window(), slice(kept[-taken.span], i + 1)
                number += 1


def judge_scene(
    judge: Judge, frames: Images, labels: NDArray[np.int64], every: int
) -> dict[str, list[Judged]]:
    """Judge every way on one stream of labelled frames."""
    size = judge.settings.window
    predicted = judge.infer(frames)
    right = predicted.label == labels
    rng = np.random.default_rng(3)
    found: dict[str, list[Judged]] = {way: [] for way in WAYS}
    for window, span in sampled(frames, predicted, size, 1, every):
        truth = float(100 * right[span].mean())
        found[LAST].append(judge.look(window, truth, span.stop - span.start)[0])
    for window, span in sampled(frames, predicted, size, PAST, every):
        truth, length = float(100 * right[span].mean()), span.stop - span.start
        plain, weighted = judge.look(window, truth, length)
        found[PLAIN].append(plain)
        found[BALANCED].append(weighted)
        past = slice(max(0, span.stop - PAST * size), span.stop)
        drawn = past.start + rng.permutation(past.stop - past.start)[:size]
        truth = float(100 * right[past].mean())
        found[SHUFFLED].append(judge.look(Window(frames[drawn], None), truth, PAST * size)[0])
    return found


def rows_of(found: dict[str, dict[str, list[Judged]]]) -> list[dict[str, Any]]:
    """Return a row for each scene and way, and for each way of all scenes."""
    rows: list[dict[str, Any]] = []
    scene_names = dict.fromkeys(name.split("/")[0] for name in found)
    for scene in (*scene_names, "all"):
        for way in WAYS:
            seen = [
                x
                for name, ways in found.items()
                if scene in (name.split("/")[0], "all")
                for x in ways[way]
            ]
            errors = [x.error for x in seen]
            rows.append(
                {
                    "scene": scene,
                    "way": way,
                    "estimates": len(errors),
                    "mae": float(np.mean(np.abs(errors))),
                    "bias": float(np.mean(errors)),
                    "worst": float(max(errors, key=abs)),
                    "classes": float(np.mean([x.classes for x in seen])),
                    "frames": float(np.mean([x.frames for x in seen])),
                }
            )
    for row in rows:
        base = next(x for x in rows if (x["scene"], x["way"]) == (row["scene"], SHUFFLED))
        row["ratio"] = row["mae"] / base["mae"]
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return it as Markdown."""
    return [
        "| stream | windows of | MAE | of shuffled | bias | worst error | classes | frames |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {x['scene']} | {x['way']} | {x['mae']:.2f} | {x['ratio']:.2f} | {x['bias']:+.2f} "
            f"| {x['worst']:+.1f} | {x['classes']:.1f} | {x['frames']:.0f} |"
            for x in rows
        ),
    ]


@click.command(cls=ExplainingCommand)
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), default="build/stream")
@click.option("--output", type=click.Path(path_type=Path), default="benchmarks/results/stream")
@click.option("--scene", "chosen_scenes", multiple=True, help="Some of the streams; none for all.")
@click.option("--corruption", "corruptions", multiple=True, default=CORRUPTIONS)
@click.option("--every", type=int, default=2, help="Judge one of so many windows.")
@click.option("--severity", type=click.IntRange(1, 5), default=3, help="Of the corruptions.")
@click.option("--windows", "calibrations", type=int, default=1, help="To calibrate on.")
@click.option("--batch-size", type=int)
@click.option("--window", type=int)
def main(
    bundle: Path,
    data: Path,
    work: Path,
    output: Path,
    chosen_scenes: tuple[str, ...],
    corruptions: tuple[str, ...],
    every: int,
    severity: int,
    calibrations: int,
    **burst: object,
) -> None:
    """Print the table and write it as Markdown and JSON."""
    loaded = Bundle.load(bundle)
    settings = loaded.manifest.burst.with_changes(**burst)
    engine = select_engine("auto", loaded, None).engine
    name = f"{loaded.manifest.model}_{data.name}"
    folder = kept_in(work, loaded, data, engine)
    bank = Bank(folder, engine, settings)
    chosen = windows(loaded, data, settings.window, calibrations)
    calibration = bank.look(of_kind(chosen, "calibration"), "calibration")
    known = references(calibration)
    judge = Judge(engine, settings, fit_points(DEFAULT, points(calibration, known)), known)
    source = stream(loaded, data)
    found = {}
    for scene in scenes(source.labels, settings.window):
        if chosen_scenes and scene.name not in chosen_scenes:
            continue
        for cell in (CLEAN, *((corruption, severity) for corruption in corruptions)):
            key = f"{scene.name}/{cell[0]}/{cell[1]}"
            path = folder / f"{key.replace('/', '-').replace(' ', '_')}-{every}.json"
            if not path.exists():
                frames = shifted(scene.frames(source.images()), cell, 0)
                judged = judge_scene(judge, frames, source.labels[scene.shown], every)
                text = {way: [asdict(x) for x in seen] for way, seen in judged.items()}
                write_text(path, json.dumps(text))
                click.echo(f"{key}: {len(judged[BALANCED])} windows", err=True)
            record = json.loads(path.read_text())
            found[key] = {way: [Judged(**x) for x in seen] for way, seen in record.items()}
    rows = rows_of(found)
    click.echo("\n".join(table(rows)))
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"sampler_{name}"
    write_text(path.with_suffix(".md"), "\n".join([*table(rows), "", machine_line(), ""]))
    result = {
        "machine": describe_machine(),
        "settings": settings.to_json(),
        "rows": rows,
        "estimates": {
            key: {way: [asdict(x) for x in seen] for way, seen in ways.items()}
            for key, ways in found.items()
        },
    }
    write_text(path.with_suffix(".json"), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
