"""The order of a burst, seen by an engine that only takes notes, and a burst on a real network."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from edgewf.bundle import Bundle
from edgewf.burst import Burst, run_burst
from edgewf.engines import BurstRecord, Engine, Features, Float32, Images, Predictions, StepTrace
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.estimators.table import evaluate
from edgewf.settings import BurstSettings
from tests.tiny import crops, export_tiny, tiny_settings

WINDOW, BATCH = 24, 8


def settings(**changes: object) -> BurstSettings:
    return tiny_settings(**{"window": WINDOW, "batch_size": BATCH, "steps": 7, **changes})


def numbered(count: int = WINDOW) -> Images:
    """Frame i is one pixel of value i."""
    return np.repeat(np.arange(count, dtype=np.uint8), 3).reshape(count, 1, 1, 3)


def numbers(images: Images) -> list[int]:
    return [int(x) for x in images[:, 0, 0, 0]]


def numbered_logits(frames: np.ndarray) -> np.ndarray:
    return frames[:, None].astype(np.float32)


class Notes:
    """An engine that writes down what it is asked and predicts by the number of a frame.

    Frame i is of class i for the deployed network with confidence i / 100. Batch statistics
    make class 1000 of every 4th frame, adaptation 2000 of every 3rd.
    """

    name = "notes"

    def __init__(self, selected: tuple[int, ...] = (), collapses_at: int = 10**6) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self.settings: list[BurstSettings] = []
        self._selected = selected
        self._collapses_at = collapses_at

    def infer(self, images: Images) -> Float32:
        raise AssertionError("a burst takes labels by `record` and `probe`")

    def reset(self, settings: BurstSettings) -> None:
        self.calls.append(("reset", []))
        self.settings.append(settings)

    def record(self, images: Images) -> None:
        self.calls.append(("record", numbers(images)))

    def step(self, images: Images) -> None:
        self.calls.append(("step", numbers(images)))

    def probe(self, images: Images) -> None:
        self.calls.append(("probe", numbers(images)))

    def features(self, images: Images) -> Features:
        self.calls.append(("features", numbers(images)))
        steps = len(self.batches("step"))
        labels = np.array(numbers(images)) if steps < self._collapses_at else np.zeros(len(images))
        logits = np.eye(256, dtype=np.float32)[labels.astype(int)]
        return Features(logits, np.zeros((len(images), 1), np.float32))

    def read(self) -> BurstRecord:
        recorded, probed = np.array(self.frames("record")), np.array(self.frames("probe"))
        steps = [part for kind, part in self.calls if kind == "step"]
        selected = self._selected or (BATCH,) * len(steps)
        return BurstRecord(
            deployed=Predictions(recorded, recorded / 100, numbered_logits(recorded)),
            before=Predictions(
                np.where(recorded % 4 == 0, 1000, recorded),
                recorded / 50,
                numbered_logits(recorded),
            ),
            after=Predictions(
                np.where(probed % 3 == 0, 2000, probed), probed / 25, numbered_logits(probed)
            ),
            steps=tuple(
                StepTrace(len(part), 0.5, len(part), n, n > 0)
                for part, n in zip(steps, selected, strict=True)
            ),
            affine_change=0.25,
        )

    def frames(self, kind: str) -> list[int]:
        return [i for call, part in self.calls for i in part if call == kind]

    def batches(self, kind: str) -> list[list[int]]:
        return [part for call, part in self.calls if call == kind]


def test_records_steps_and_probes_in_this_order() -> None:
    engine: Engine = Notes()
    assert isinstance(engine, Notes)
    run_burst(engine, numbered(), settings())
    kinds = [kind for kind, _ in engine.calls]
    assert kinds == ["reset"] + 3 * ["record"] + 7 * ["step"] + 3 * ["probe"]
    assert engine.settings == [settings()]


def test_every_frame_is_recorded_and_probed_once_in_the_same_batches() -> None:
    engine = Notes()
    run_burst(engine, numbered(), settings())
    assert sorted(engine.frames("record")) == list(range(WINDOW))
    assert engine.batches("probe") == engine.batches("record")
    assert {len(part) for part in engine.batches("record")} == {BATCH}
    # The window may come sorted by class; batches must be mixed all the same.
    assert engine.frames("record") != list(range(WINDOW))


def test_steps_go_around_the_window_in_ever_new_order() -> None:
    engine = Notes()
    run_burst(engine, numbered(), settings(steps=9))
    batches = engine.batches("step")
    epochs = [[i for part in batches[k : k + 3] for i in part] for k in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(WINDOW))
    assert len({tuple(epoch) for epoch in [*epochs, engine.frames("record")]}) == 4


def test_an_epoch_cut_short_repeats_no_frame() -> None:
    engine = Notes()
    run_burst(engine, numbered(), settings(steps=5))
    assert Counter(engine.frames("step")).most_common(1)[0][1] == 2
    assert len(set(engine.frames("step")[WINDOW:])) == 2 * BATCH


def test_predictions_come_back_in_the_windows_order() -> None:
    burst = run_burst(Notes(), numbered(), settings())
    frames = np.arange(WINDOW)
    record = burst.record
    np.testing.assert_array_equal(record.deployed.label, frames)
    np.testing.assert_array_equal(record.deployed.confidence, frames / 100)
    np.testing.assert_array_equal(record.before.label, np.where(frames % 4, frames, 1000))
    np.testing.assert_array_equal(record.before.confidence, frames / 50)
    np.testing.assert_array_equal(record.after.label, np.where(frames % 3, frames, 2000))
    for predictions in (record.deployed, record.before, record.after):
        np.testing.assert_array_equal(predictions.logits, numbered_logits(frames))
    np.testing.assert_array_equal(record.after.confidence, frames / 25)
    assert record.affine_change == 0.25
    assert len(record.steps) == 7


def test_flips_by_hand() -> None:
    burst = run_burst(Notes(), numbered(), settings())
    # Frame i has rank i + 1 of 24. Adaptation relabels every 3rd, batch statistics every 4th.
    third = [i for i in range(24) if i % 3 == 0]
    fourth = [i for i in range(24) if i % 4 == 0]
    either = sorted({*third, *fourth})  # each 12th goes from 1000 to 2000
    keys = ("flips", "weighted_flips", "zero_step", "weighted_zero_step")
    batch = ("flips_batch", "weighted_flips_batch")
    found = iter(evaluate((*keys, *batch), burst.record, None).values())
    for frames in (third, fourth, either):
        assert next(found) == pytest.approx(1000 * len(frames) / 24)
        assert next(found) == pytest.approx(1000 * sum(i + 1 for i in frames) / 24**2)


def test_selected_share_is_the_mean_over_steps() -> None:
    burst = run_burst(Notes(selected=(8, 4, 0)), numbered(), settings(steps=3))
    assert burst.selected_share == pytest.approx(0.5)


def test_no_steps() -> None:
    engine = Notes()
    burst = run_burst(engine, numbered(), settings(steps=0))
    assert engine.batches("step") == engine.batches("probe") == []
    np.testing.assert_array_equal(burst.record.after.logits, burst.record.before.logits)
    assert burst.record.steps == ()
    assert burst.selected_share == 0
    assert evaluate(["zero_step"], burst.record, None)["zero_step"] == pytest.approx(250)


def test_seeds_fix_and_change_the_order() -> None:
    calls = []
    for seed in (1, 1, 2):
        engine = Notes()
        run_burst(engine, numbered(), settings(seed=seed))
        calls.append(engine.calls)
    assert calls[0] == calls[1]
    assert calls[0] != calls[2]


def test_progress_counts_every_engine_call() -> None:
    seen: list[tuple[int, int]] = []
    run_burst(Notes(), numbered(), settings(), lambda done, total: seen.append((done, total)))
    assert seen == [(i, 13) for i in range(1, 14)]


def test_ten_steps_are_not_watched_and_long_bursts_are_between_the_tenth_and_the_last() -> None:
    for steps, looks in ((10, 0), (11, 2), (20, 2), (21, 3), (45, 5)):
        engine = Notes()
        seen: list[tuple[int, int]] = []
        burst = run_burst(
            engine, numbered(), settings(steps=steps), lambda *now, seen=seen: seen.append(now)
        )
        assert not burst.stopped
        assert len(engine.batches("features")) == 3 * looks
        assert seen[-1] == (len(engine.calls) - 1, len(engine.calls) - 1)
        assert {total for _, total in seen} == {len(engine.calls) - 1}


@pytest.mark.parametrize(("collapses_at", "steps"), [(1, 10), (10, 10), (11, 20), (35, 40)])
def test_a_collapse_ends_the_steps_and_the_labels_after_are_taken(
    collapses_at: int, steps: int
) -> None:
    engine = Notes(collapses_at=collapses_at)
    seen: list[tuple[int, int]] = []
    burst = run_burst(
        engine, numbered(), settings(steps=41), lambda done, total: seen.append((done, total))
    )
    assert burst.stopped
    assert len(burst.record.steps) == len(engine.batches("step")) == steps
    assert engine.batches("probe") == engine.batches("record")
    assert seen[-1] == (len(engine.calls) - 1, len(engine.calls) - 1)


@pytest.mark.parametrize("count", [0, WINDOW - 1, WINDOW + BATCH])
def test_another_window_is_refused_before_the_engine_is_touched(count: int) -> None:
    engine = Notes()
    with pytest.raises(EdgewfError, match=f"window of {count} frames, but the burst is set to 24"):
        run_burst(engine, numbered(count), settings())
    assert engine.calls == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "sgd"}, "unknown objective 'sgd': use one of tent, eta, eata, rdumb, sar"),
        ({"batch_size": 1}, "batch size 1: batch statistics need at least 2"),
        ({"window": 30}, "no multiple of the batch size 8: choose a window of 32"),
        ({"window": 4}, "choose a window of 8"),
        ({"learning_rate": 0.0}, "learning rate > 0"),
        ({"learning_rate": float("nan")}, "learning rate > 0"),
        ({"momentum": 1.0}, "momentum < 1"),
        ({"steps": -1}, "steps >= 0"),
        ({"source_samples": -1.0}, "at least 0"),
    ],
)
def test_settings_that_make_no_burst_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(EdgewfError, match=message):
        settings(**change)


def test_settings_come_back_from_json_and_name_their_differences() -> None:
    chosen = settings(seed=3, source_samples=2.5)
    assert BurstSettings.from_json(chosen.to_json()) == chosen
    assert chosen.difference(chosen) == []
    assert chosen.difference(settings(seed=4, source_samples=2.5)) == ["seed 3 against 4"]
    assert chosen.with_changes(steps=None, seed=None) == chosen


def test_defaults_depend_on_the_number_of_classes() -> None:
    few, many = BurstSettings.default(10), BurstSettings.default(1000)
    assert few.entropy_margin == pytest.approx(0.4 * np.log(10))
    assert many.entropy_margin == pytest.approx(0.4 * np.log(1000))
    assert few.redundancy_margin > many.redundancy_margin
    assert few.objective == many.objective == "tent", "the default must always adapt"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("burst"))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OnnxRuntimeCPU:
    return OnnxRuntimeCPU(bundle, threads=1)


@pytest.fixture(scope="module")
def window() -> Images:
    images, _ = crops(WINDOW // 6, seed=5)
    return images


def same(a: Burst, b: Burst) -> bool:
    fields = [
        (getattr(x.record, name).label, getattr(x.record, name).confidence)
        for x in (a, b)
        for name in ("deployed", "before", "after")
    ]
    return (
        all(
            np.array_equal(u, v)
            for first, second in zip(fields[:3], fields[3:], strict=True)
            for u, v in zip(first, second, strict=True)
        )
        and a.record.steps == b.record.steps
    )


@pytest.mark.parametrize("objective", ["tent", "rdumb"])
def test_real_bursts_repeat_and_leave_nothing_behind(
    engine: OnnxRuntimeCPU, window: Images, objective: str
) -> None:
    chosen = settings(objective=objective, steps=4)
    deployed = engine.infer(window)
    first = run_burst(engine, window, chosen)
    run_burst(engine, window[::-1], settings(steps=9, learning_rate=0.5))
    assert same(run_burst(engine, window, chosen), first)
    np.testing.assert_array_equal(engine.infer(window), deployed)


def test_a_real_burst_lowers_the_entropy(engine: OnnxRuntimeCPU, window: Images) -> None:
    # The whole window in each batch, so that only the affine vector differs between steps.
    chosen = settings(batch_size=WINDOW, steps=12, learning_rate=0.02, momentum=0.9)
    burst = run_burst(engine, window, chosen)
    entropies = [trace.mean_entropy for trace in burst.record.steps]
    assert (np.diff(entropies) < 0).all()
    assert burst.record.affine_change > 0
    assert all(trace.moved for trace in burst.record.steps)
    assert burst.selected_share == 1


def test_without_steps_a_real_burst_only_changes_the_statistics(
    engine: OnnxRuntimeCPU, window: Images
) -> None:
    burst = run_burst(engine, window, settings(steps=0))
    np.testing.assert_array_equal(burst.record.after.label, burst.record.before.label)
    assert burst.record.affine_change == 0
    pairs = {
        "flips": "zero_step",
        "weighted_flips": "weighted_zero_step",
        "soft_agreement": "soft_agreement_zero_step",
    }
    keys = [*pairs, *pairs.values(), "flips_batch"]
    found = evaluate(keys, burst.record, None)
    for after, still in pairs.items():
        assert found[after] == found[still]
    assert found["flips_batch"] == 0
    # The same is known of a burst with steps, before the first of them.
    moved = run_burst(engine, window, settings(steps=4, learning_rate=0.5))
    told = evaluate(keys, moved.record, None)
    assert told["soft_agreement_zero_step"] == found["soft_agreement"] != told["soft_agreement"]


def predicted(engine: OnnxRuntimeCPU, images: Images) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = engine.infer(images).argmax(axis=1)
    return labels


def test_real_predictions_are_those_of_the_frames(engine: OnnxRuntimeCPU, window: Images) -> None:
    burst = run_burst(engine, window, settings())
    np.testing.assert_array_equal(burst.record.deployed.label, predicted(engine, window))
    assert len(set(burst.record.deployed.label.tolist())) > 3


def test_the_bundle_stays_as_it_was(bundle: Bundle, engine: OnnxRuntimeCPU, window: Images) -> None:
    before = {path.name: path.read_bytes() for path in bundle.folder.iterdir()}
    affine = bundle.affine.copy()
    run_burst(engine, window, settings(learning_rate=0.5))
    assert {path.name: path.read_bytes() for path in bundle.folder.iterdir()} == before
    np.testing.assert_array_equal(bundle.affine, affine)
