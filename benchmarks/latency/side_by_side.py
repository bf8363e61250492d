"""One step of one network in every row, alternating in one run, with the gradients compared."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graphs.networks import bundle, normalised
from benchmarks.latency.protocol import Process, RowError, processes
from benchmarks.latency.rows import EAGER, EDGEWF, ORT_TRAINING, TORCH
from benchmarks.pictures import photographs, pieces
from edgewf.bench.case import ALL, engines_here
from edgewf.bundle import Bundle

MODELS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_lite0",
    "regnet_y_400mf",
)
CPU_ENGINES = ("openvino", "onnxruntime")

_WARM_UP = 2
# Between two turns, so that threads that wait actively for more work have gone to sleep.
_SETTLE_S = 0.05


@dataclass(frozen=True)
class Setting:
    """What every row is given.

    Attributes:
        model: as `edgewf export --model` spells it; random weights but for efficientnet_lite0.
        batch: frames.
        side: of a frame in pixels; None for the model's own.
        classes: of the head.
        threads: of every row.
    """

    model: str
    batch: int = 16
    side: int | None = None
    classes: int = 1000
    threads: int = 2


def rows_here(ort_training: Path | None) -> list[str]:
    """Return the rows that can run: edgewf on CPUs, PyTorch, and ONNX Runtime Training."""
    engines = [name for name in engines_here([ALL]) if name in CPU_ENGINES]
    others = [] if ort_training is None else [ORT_TRAINING]
    return [*(f"{EDGEWF}{name}" for name in engines), *TORCH, *others]


def measure(
    setting: Setting,
    rows: Sequence[str],
    repeats: int,
    folder: Path,
    ort_training: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run all rows in turn and return samples, gradient errors and memory.

    Args:
        setting: see there.
        rows: names of `rows_here`; one that fails is recorded with its reason.
        repeats: samples of each row.
        folder: for bundles, graphs and frames, kept from one run to the next.
        ort_training: interpreter of the environment that has ONNX Runtime Training.
        say: called with what is being done.
    """
    say("exporting")
    exported = exported_bundle(setting, folder)
    orders = _Orders(setting, exported, folder, ort_training)
    results: dict[str, dict[str, Any]] = {}
    with processes() as running:
        for row in rows:
            say(f"starting {row}")
            begin = time.perf_counter()
            try:
                running[row] = Process(*orders.of(row))
                results[row] = {"start_seconds": time.perf_counter() - begin}
                error = orders.error(running[row])
            except RowError as failure:
                results[row] = {"failed": str(failure)}
                if row in running:
                    running.pop(row).close()
            else:
                results[row] |= {"error": error, "step": [], "infer": []}
        for done in range(repeats + _WARM_UP):
            for row, process in running.items():
                say(f"round {done + 1} of {repeats + _WARM_UP}: {row}")
                for name in ("step", "infer") if process.infers else ("step",):
                    time.sleep(_SETTLE_S)
                    seconds = getattr(process, name)()
                    if done >= _WARM_UP:
                        results[row][name].append(round(seconds, 6))
        for row, process in running.items():
            results[row]["memory"] = process.memory()
    return {"setting": asdict(setting), "repeats": repeats, "rows": results}


def exported_bundle(setting: Setting, folder: Path) -> Bundle:
    """Export the network, unless that was done before."""
    name = "-".join(map(str, (setting.model, setting.side or "own", setting.classes)))
    path = folder / "bundles" / name
    if not (path / "manifest.json").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return bundle(setting.model, path, classes=setting.classes, image_size=setting.side)
    return Bundle.load(path)


class _Orders:
    """What each row's process is started with, and the gradient that all should find."""

    def __init__(
        self, setting: Setting, exported: Bundle, folder: Path, ort_training: Path | None
    ) -> None:
        self._setting, self._bundle = setting, exported
        self._folder = folder / "inputs"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ort_training = ort_training
        self._images = self._folder / "images.npy"
        self._truth = self._folder / "truth.npy"
        self._truth.unlink(missing_ok=True)
        frames = pieces(photographs(), exported.manifest.preprocessing, setting.batch)
        np.save(self._images, frames)

    def of(self, row: str) -> tuple[list[str], dict[str, Any]]:
        """Return command and first question."""
        common = {"row": row, "threads": self._setting.threads}
        if row == ORT_TRAINING:
            return self._ort_order(common)
        order = {
            **common,
            "model": self._setting.model,
            "classes": self._setting.classes,
            "bundle": str(self._bundle.folder),
            "images": str(self._images),
        }
        return [sys.executable, "-m", "benchmarks.latency.rows"], order

    def error(self, process: Process) -> float:
        """Return the relative L2 error of a row's gradient against float64 autograd."""
        if not self._truth.exists():
            self._find_truth()
        found = self._folder / "gradient.npy"
        process.gradient(found)
        truth, gradient = np.load(self._truth), np.load(found)
        return float(np.linalg.norm(gradient - truth) / np.linalg.norm(truth))

    def _find_truth(self) -> None:
        """In a process of its own, because float64 takes twice the memory of a row."""
        command, order = self.of(EAGER)
        Process(command, {**order, "truth": str(self._truth)}).close()

    def _ort_order(self, common: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        from benchmarks.latency.training_graph import write

        assert self._ort_training is not None
        training, deployed = (self._folder / f"{x}.onnx" for x in ("training", "deployed"))
        side = self._bundle.manifest.preprocessing.image_size
        affine = write(self._setting.model, self._setting.classes, side, training, deployed)
        floats = self._folder / "input.npy"
        np.save(floats, normalised(np.load(self._images), self._bundle).numpy())
        artefacts = self._folder / "artefacts"
        artefacts.mkdir(exist_ok=True)
        order = {
            **common,
            "training_graph": str(training),
            "deployed_graph": str(deployed),
            "affine": affine,
            "input": str(floats),
            "folder": str(artefacts),
        }
        return [str(self._ort_training), "-m", "benchmarks.latency.ort_training"], order


def key(setting: Setting, rows: Sequence[str], repeats: int) -> str:
    """Return what has to agree for a finished measurement to be taken as it is."""
    return json.dumps([asdict(setting), sorted(rows), repeats])
