"""Agreement of dropout inferences: formula, inferences, and the estimator from end to end."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from edgewf.bundle import CLASSIFIER, Bundle
from edgewf.burst import run_burst
from edgewf.dropout import INFERENCES, DropoutInference, rate
from edgewf.engines import BurstRecord, Predictions
from edgewf.engines.onnxruntime_cpu import OnnxRuntimeCPU
from edgewf.errors import EdgewfError
from edgewf.estimators.aetta import aetta
from edgewf.estimators.table import KEYS, References, evaluate, keys_of
from edgewf.estimators.temperature import scaled
from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source
from edgewf.weighting import reweighted
from tests.tiny import EDGEWF, SIDE, crops, export_tiny, network, tiny_settings, write_class_folders

Float32 = NDArray[np.float32]


def record(before: Float32, dropout: Float32) -> BurstRecord:
    said = Predictions(before.argmax(axis=1), np.ones(len(before)), before)
    return BurstRecord(said, said, said, (), 0.0, dropout)


def one_hot(labels: list[int], classes: int, sure: float = 50.0) -> Float32:
    return (sure * np.eye(classes)[labels]).astype(np.float32)


def by_the_authors(before: Float32, dropout: Float32) -> float:
    """Transcribed: softmax of each inference, agreement, entropy of the mean, third power."""
    p = torch.from_numpy(dropout).double().softmax(dim=2)  # [M, N, K]
    label = torch.from_numpy(before).argmax(dim=1)
    agree = (p.argmax(dim=2) == label).double().mean().item()
    mean = p.mean(dim=(0, 1))
    entropy = -(mean * mean.log()).sum().item()
    classes = before.shape[1]
    err = (1 - agree) / (entropy / math.log(classes)) ** 3
    return 1 - max(0.0, min(1 - 1 / classes, err))


def test_an_example_by_hand() -> None:
    """Of 2 inferences on 4 frames one differs; the labels are half of one class."""
    before = one_hot([0, 0, 1, 1], 2)
    dropout = np.stack([one_hot([0, 0, 1, 1], 2), one_hot([0, 1, 1, 1], 2)])
    p = np.array([3, 5]) / 8
    spread = -(p * np.log(p)).sum() / math.log(2)
    assert aetta(record(before, dropout)) == pytest.approx(1 - 1 / 8 / spread**3)


def test_a_network_that_agrees_with_itself_is_right_and_one_that_crowds_is_not() -> None:
    even = one_hot([0, 1, 2, 3], 4)
    assert aetta(record(even, np.stack([even, even]))) == 1
    assert aetta(record(one_hot([0] * 4, 4), np.stack([one_hot([0] * 4, 4)] * 2))) == 1
    crowded = one_hot([0] * 8, 4)
    almost = one_hot([0] * 7 + [1], 4)
    assert aetta(record(crowded, np.stack([almost] * 2))) == pytest.approx(1 / 4)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_it_is_what_the_authors_compute(seed: int, sure: float) -> None:
    rng = np.random.default_rng(seed)
    before = rng.normal(0, sure, (12, 5)).astype(np.float32)
    dropout = (before + rng.normal(0, 1, (3, 12, 5))).astype(np.float32)
    found = aetta(record(before, dropout))
    assert found == pytest.approx(by_the_authors(before, dropout), abs=1e-9)
    assert 1 / 5 - 1e-12 <= found <= 1


def test_temperature_and_weights_reach_the_inferences() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(0, 2, (6, 4)).astype(np.float32)
    dropout = rng.normal(0, 2, (3, 6, 4)).astype(np.float32)
    seen = record(before, dropout)
    warm = scaled(seen, 2.0)
    assert warm.dropout is not None
    np.testing.assert_allclose(warm.dropout, dropout / 2)
    weighted = reweighted(seen, np.array([2.0, 0, 1, 1, 0, 2]))
    np.testing.assert_array_equal(weighted.dropout, dropout[:, [0, 0, 2, 3, 5, 5]])
    known = References(2.0)
    keys = ["aetta", "aetta_tempered"]
    assert evaluate(keys, seen, known)["aetta_tempered"] == aetta(warm)
    assert set(KEYS) - set(keys_of(BurstRecord(seen.before, seen.before, seen.before, (), 0))) == {
        *keys
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_tiny(tmp_path_factory.mktemp("aetta"))


def test_inferences_drop_features_before_the_last_layer(bundle: Bundle) -> None:
    engine = OnnxRuntimeCPU(bundle, threads=1)
    engine.reset(tiny_settings())
    images, _ = crops(40, seed=3)
    features = engine.features(images)
    infer = DropoutInference(bundle)
    found = infer(features.embedding, seed=0)
    assert found.shape == (INFERENCES, len(images), 6)
    np.testing.assert_array_equal(found, infer(features.embedding, seed=0))
    assert not np.array_equal(found, infer(features.embedding, seed=1))
    assert not np.array_equal(found[0], found[1])
    # The layer is linear and what is kept is scaled up, so the mean is what nothing dropped says,
    # and the variance is that of the products times p / (1 - p).
    many = np.concatenate([infer(features.embedding, seed) for seed in range(40)])
    error = many.mean(axis=0) - features.logits
    assert np.abs(error).max() < 6 * many.std(axis=0).max() / math.sqrt(len(many))
    layer = network()[-1]
    assert isinstance(layer, nn.Linear)
    weight = _weight(bundle)
    expected = (features.embedding**2) @ (weight**2).T * rate(6) / (1 - rate(6))
    assert many.var(axis=0).sum() == pytest.approx(expected.sum(), rel=0.05)


def _weight(bundle: Bundle) -> Float32:
    """Ask the classifier graph for its weight [K, D]."""
    infer = DropoutInference(bundle)
    classes, width = 6, 32
    zero = infer._session.run(["logits"], {"embedding": np.zeros((1, width), np.float32)})[0]
    whole = infer._session.run(["logits"], {"embedding": np.eye(width, dtype=np.float32)})[0]
    found: Float32 = (whole - zero).T
    assert found.shape == (classes, width)
    return found


def test_a_burst_returns_them_in_the_windows_order(bundle: Bundle) -> None:
    engine, settings = OnnxRuntimeCPU(bundle, threads=1), tiny_settings()
    images = crops(3, seed=4)[0][:16]
    calls: list[tuple[int, int]] = []
    plain = run_burst(engine, images, settings).record
    burst = run_burst(
        engine, images, settings, lambda *x: calls.append(x), DropoutInference(bundle)
    )
    found = burst.record.dropout
    assert plain.dropout is None
    assert found is not None
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    np.testing.assert_array_equal(burst.record.after.logits, plain.after.logits)
    # Dropping features changes logits less than another frame would.
    own = np.abs(found.mean(axis=0)[:, None] - burst.record.before.logits).sum(axis=2)
    assert (own.argmin(axis=1) == np.arange(16)).mean() > 0.8


def test_the_estimator_from_export_to_estimate(bundle: Bundle, tmp_path: Path) -> None:
    data = write_class_folders(tmp_path / "data", 8, seed=5)
    small = ["--window", "16", "--batch-size", "8", "--steps", "2"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*EDGEWF, *words], capture_output=True, text=True, check=False)

    done = run("calibrate", str(bundle.folder), "--data", str(data), *small)
    assert done.returncode == 0, done.stderr
    order = ["estimate", str(bundle.folder), "--data", str(data), "--estimator", "aetta", "--json"]
    done = run(*order)
    assert done.returncode == 0, done.stderr
    estimate = json.loads(done.stdout)
    assert estimate["estimator"] == "aetta"
    assert 1 / 6 <= estimate["scores"]["aetta"] <= 1
    assert 0 <= estimate["accuracy"] <= 100


class TwoHeads(nn.Module):
    """Logits are the mean of two layers that see different features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.first, self.second = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return (self.first(x.mean((2, 3))) + self.second(x.amax((2, 3)))) / 2


def test_a_network_of_two_heads_has_no_dropout_inferences(tmp_path: Path) -> None:
    source = load_source("tests.test_aetta:TwoHeads", image_size=SIDE, resize=SIDE, classes=6)
    exported = export_bundle(source, tmp_path / "two")
    assert not exported.path(CLASSIFIER).exists()
    assert DropoutInference.of(exported) is None
    with pytest.raises(EdgewfError, match=r"has no classifier\.onnx, which dropout inferences"):
        DropoutInference(exported)
