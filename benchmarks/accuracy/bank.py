"""What bursts read back of windows, each finished one kept on disk, so that runs resume."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from benchmarks.accuracy.windows import Window
from edgewf.bundle import Bundle
from edgewf.burst import Progress, run_burst
from edgewf.calibration import Point
from edgewf.dropout import DropoutInference
from edgewf.engines import BurstRecord, Engine, Images, Predictions
from edgewf.engines.host import predictions
from edgewf.errors import EdgewfError
from edgewf.estimators.table import References, evaluate, keys_of
from edgewf.settings import BurstSettings

_TABLES = ("deployed", "before", "after")


@dataclass(frozen=True)
class Seen:
    """A burst on a window, and the truth.

    Attributes:
        window: what it looked at.
        record: what was read back; without the steps' traces.
        seconds: that the labels before, the steps, and the labels after took.
    """

    window: Window
    record: BurstRecord
    seconds: tuple[float, float, float]

    @property
    def accuracy(self) -> float:
        """Percent of the window that the deployed network classifies correctly."""
        return float(100 * (self.record.deployed.label == self.window.labels).mean())


def whole_burst(
    engine: Engine,
    images: Images,
    settings: BurstSettings,
    progress: Progress,
    dropout: DropoutInference | None,
) -> BurstRecord:
    """Run a burst as the product does."""
    return run_burst(engine, images, settings, progress, dropout).record


def kept_in(work: Path, bundle: Bundle, data: Path, engine: Engine) -> Path:
    """Return the folder for what an engine makes of a model, as it is now, and a data set."""
    manifest = bundle.manifest
    found = [manifest.fingerprint, manifest.preprocessing.to_json(), manifest.precision]
    text = json.dumps([*found, engine.name], sort_keys=True)
    name = f"{manifest.model}_{data.name}"
    return work / name / hashlib.sha256(text.encode()).hexdigest()[:12]


class Bank:
    """Runs bursts, and keeps their logits below a folder.

    Args:
        folder: see `kept_in`.
        engine: the model.
        settings: of the bursts; each has a folder of its own.
        dropout: makes dropout inferences, too.
        burst: makes the record of a window.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        settings: BurstSettings,
        dropout: DropoutInference | None = None,
        burst: Callable[..., BurstRecord] = whole_burst,
    ) -> None:
        text = json.dumps(settings.to_json(), sort_keys=True)
        self._folder = folder / hashlib.sha256(text.encode()).hexdigest()[:12]
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "settings.json").write_text(text)
        self._engine, self._dropout, self._burst = engine, dropout, burst
        self.settings = settings

    def look(self, windows: Iterable[Window], doing: str) -> list[Seen]:
        """Run a burst on every window that has none yet; return all in order."""
        return [self._one(window) for window in track(list(windows), doing)]

    def _one(self, window: Window) -> Seen:
        kept = self._folder / f"{window.name}.npz"
        if not kept.exists() or (self._dropout is not None and not _has_dropout(kept)):
            images = window.images()
            times = [time.perf_counter()]
            record = self._burst(
                self._engine,
                images,
                self.settings,
                lambda *_: times.append(time.perf_counter()),
                self._dropout,
            )
            parts = self.settings.window // self.settings.batch_size
            before = 2 * parts if self._dropout is not None else parts
            # The pass for dropout inferences is no part of a burst's.
            skipped = times[before] - times[parts]
            after = parts if self.settings.steps else 0
            marks = [times[0] + skipped, *(times[i] for i in (before, len(times) - 1 - after, -1))]
            tables = {name: getattr(record, name).logits for name in _TABLES}
            if record.dropout is not None:
                tables["dropout"] = record.dropout.astype(np.float16)
            part = kept.with_suffix(".part.npz")
            np.savez(part, labels=window.labels, seconds=np.diff(marks), **tables)
            os.replace(part, kept)
        with np.load(kept) as found:
            if not np.array_equal(found["labels"], window.labels):
                raise EdgewfError(f"{kept} is of other images: delete {self._folder}")
            tables = {name: found[name] for name in _TABLES}
            before, steps, after = found["seconds"].tolist()
            dropout = found["dropout"].astype(np.float32) if self._dropout is not None else None
        before_and_after = [predictions(tables[name]) for name in _TABLES]
        record = BurstRecord(*before_and_after, (), 0.0, dropout)
        return Seen(window, record, (before, steps, after))


def _has_dropout(kept: Path) -> bool:
    with np.load(kept) as found:
        return "dropout" in found


def deployed_predictions(engine: Engine, images: Images, batch: int) -> Predictions:
    """Return what the deployed network makes of N images, so many at a time."""
    parts = [engine.infer(images[i : i + batch]) for i in range(0, len(images), batch)]
    return predictions(np.concatenate(parts))


def inference_seconds(engine: Engine, images: Images, batch: int) -> float:
    """Return what the deployed network's pass over N images takes, so many at a time."""
    begin = time.perf_counter()
    for i in range(0, len(images), batch):
        engine.infer(images[i : i + batch])
    return time.perf_counter() - begin


def references(calibration: list[Seen]) -> References:
    """Return what scores know of the clean ones among calibration windows."""
    clean = [seen for seen in calibration if seen.window.cell[1] == 0]
    return References.of([(seen.record, seen.window.labels) for seen in clean])


def points(
    found: Iterable[Seen], known: References, keys: Sequence[str] | None = None
) -> list[Point]:
    """Summarise windows as a calibration does, with some of its scores or all."""
    return [
        Point(
            *seen.window.cell,
            seen.window.number,
            seen.accuracy,
            evaluate(keys_of(seen.record) if keys is None else keys, seen.record, known),
        )
        for seen in found
    ]
