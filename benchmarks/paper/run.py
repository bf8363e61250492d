"""One cell of a data set: the paper's burst, our default's windows, and the truth."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.published import published_f
from benchmarks.paper.samples import Sample, load
from edgewf.bundle import Bundle, write_text
from edgewf.burst import step_batches
from edgewf.engines import Engine, Images
from edgewf.engines.device import DeviceEngine
from edgewf.errors import EdgewfError
from edgewf.estimation import Estimator
from edgewf.flips import count_flips
from edgewf.settings import BurstSettings

Tick = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much."""


@dataclass(frozen=True)
class Protocol:
    """How a cell is run.

    Attributes:
        settings: of the paper's burst.
        probes, probe_batch: images whose labels are compared, and how many at a time; statistics
            are those of the batch.
        truth: most images that the accuracy is measured on.
        windows: of our default estimator, whose mean counts.
    """

    settings: BurstSettings
    probes: int
    probe_batch: int
    truth: int
    windows: int


@dataclass(frozen=True)
class Result:
    """What a cell showed.

    Attributes:
        split, cell: which.
        images: in the cell, and those that the accuracy was measured on.
        true_accuracy: percent, of the deployed network.
        probes: images whose labels were compared.
        flips, weighted_flips: per 1,000 of them, from the labels under batch statistics.
        selected_share: mean share of a step's batch that adapted, 0 to 1.
        paper_accuracy: percent, the published f of the weighted flips.
        default_accuracy: percent, mean of our default estimator over `windows`; None without a
            calibration or with too few images.
        windows: that it was taken of.
        average_confidence: percent, of the deployed network on the probes.
        seconds: in all.
    """

    split: str
    cell: str
    images: int
    judged: int
    true_accuracy: float
    probes: int
    flips: float
    weighted_flips: float
    selected_share: float
    paper_accuracy: float
    default_accuracy: float | None
    windows: int
    average_confidence: float
    seconds: float


def run_cell(
    name: tuple[str, str],
    samples: Sequence[Sample],
    bundle: Bundle,
    engine: Engine,
    default: Estimator | None,
    protocol: Protocol,
    *,
    stored_crop: bool,
    tick: Tick,
) -> Result:
    """Run one cell.

    The images are drawn in an order of the seed: the first are the probes, and each epoch of the
    burst has its own; the last incomplete batch is left out, as in the authors' code.

    Args:
        name: split and cell.
        samples: all of the cell.
        bundle, engine: the network.
        default: our default estimator; None if the bundle has no calibration.
        protocol: how.
        stored_crop: see `benchmarks.paper.samples.load`.
        tick: progress.

    Raises:
        EdgewfError: fewer images than a batch, or an unreadable one.
    """
    begin = time.perf_counter()
    settings, batch = protocol.settings, protocol.settings.batch_size
    probe_batch = batch if isinstance(engine, DeviceEngine) else protocol.probe_batch
    count = min(protocol.probes, len(samples)) // probe_batch * probe_batch
    if not count or len(samples) < batch:
        raise EdgewfError(
            f"{samples[0].path.parent}: {len(samples)} images of {' '.join(name).strip()}, fewer "
            f"than a batch of {max(batch, probe_batch)}: copy the whole data set"
        )
    order = np.random.default_rng([settings.seed, 0]).permutation(len(samples))

    def images(part: NDArray[np.int64]) -> Images:
        chosen = [samples[i] for i in part]
        return load(chosen, bundle.manifest.preprocessing, stored_crop=stored_crop)

    judged = order[: protocol.truth]
    right = 0
    for start in range(0, len(judged), batch):
        part = judged[start : start + batch]
        found = engine.infer(images(part)).argmax(axis=1)
        right += sum(int(k) in samples[i].classes for k, i in zip(found, part, strict=True))
        tick("accuracy", start + len(part), len(judged))

    parts = np.split(order[:count], count // probe_batch)
    engine.reset(settings)
    for done, part in enumerate(parts):
        engine.record(images(part))
        tick("labels before", done + 1, len(parts))
    for done, part in enumerate(step_batches(len(samples), settings)):
        engine.step(images(part))
        tick("steps", done + 1, settings.steps)
    for done, part in enumerate(parts):
        engine.probe(images(part))
        tick("labels after", done + 1, len(parts))
    record = engine.read()
    flips = count_flips(record.before, record.after.label)

    estimates = []
    if default is not None:
        window = default.settings.window
        for w in range(min(protocol.windows, len(samples) // window)):
            part = order[w * window : (w + 1) * window]
            found_here = default(images(part), source="", time=0.0)
            assert found_here.accuracy is not None
            estimates.append(found_here.accuracy)
            tick("default", w + 1, protocol.windows)
    return Result(
        split=name[0],
        cell=name[1],
        images=len(samples),
        judged=len(judged),
        true_accuracy=100 * right / len(judged),
        probes=count,
        flips=flips.count,
        weighted_flips=flips.weighted,
        selected_share=float(np.mean([t.selected / t.samples for t in record.steps] or [0.0])),
        paper_accuracy=published_f(flips.weighted),
        default_accuracy=float(np.mean(estimates)) if estimates else None,
        windows=len(estimates),
        average_confidence=float(100 * record.deployed.confidence.mean()),
        seconds=time.perf_counter() - begin,
    )


class Results:
    """Finished cells, one JSON object a line; those of another run are another file's.

    Args:
        path: of the file; a line torn by a crash is dropped.
        header: what the results depend on.

    Raises:
        EdgewfError: the file is of another network or protocol.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._path = path
        self._run = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:12]
        self._done: dict[tuple[str, str], Result] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
                run = record.pop("run")
                result = Result(**record)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
            if run != self._run:
                raise EdgewfError(
                    f"{path} holds results of another network, calibration or protocol: name "
                    "another folder with --output, or delete the file"
                )
            self._done[result.split, result.cell] = result
        if lines:
            write_text(path, "".join(self._line(x) for x in self._done.values()))

    def get(self, split: str, cell: str) -> Result | None:
        """Return a finished cell, None if there is none."""
        return self._done.get((split, cell))

    def keep(self, result: Result) -> None:
        """Add a cell; it is on disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._line(result))
            file.flush()
            os.fsync(file.fileno())
        self._done[result.split, result.cell] = result

    def _line(self, result: Result) -> str:
        return json.dumps({"run": self._run, **asdict(result)}) + "\n"
