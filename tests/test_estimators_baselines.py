"""Published label-free scores, each against a case by hand and a transcription of its formula."""

from __future__ import annotations

import json
import math
import tracemalloc
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize  # type: ignore[import-untyped]
from scipy.special import logsumexp, softmax  # type: ignore[import-untyped]

from edgewf.engines import BurstRecord, Predictions
from edgewf.estimators import rows
from edgewf.estimators.cot import frame_costs, label_shares
from edgewf.estimators.mano import mano
from edgewf.estimators.mde import mde
from edgewf.estimators.scores import certainty, dispersion, nuclear_norm, soft_agreement
from edgewf.estimators.table import KEYS, SCORES, References, evaluate
from edgewf.estimators.temperature import fit_temperature, scaled
from edgewf.estimators.threshold import share_above, split
from edgewf.estimators.transport import transport

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Labels = NDArray[np.int64]

SEEDS = st.integers(0, 2**32 - 1)
COUNTS = {name for name in SCORES if "flips" in name or "zero_step" in name}


def record(logits: Float32) -> BurstRecord:
    p = softmax(logits.astype(np.float64), axis=1)
    deployed = Predictions(logits.argmax(axis=1), p.max(axis=1), logits)
    # Of one label always, so `aetta` is 1; it has tests of its own.
    dropout = np.stack([logits, np.float32(0.5) * logits])
    return BurstRecord(deployed, deployed, deployed, (), 0.0, dropout)


def of_probabilities(p: list[list[float]]) -> Float32:
    return np.asarray(np.log(p), np.float32)


def window(
    seed: int, frames: int = 60, classes: int = 7, sure: float = 2
) -> tuple[Float32, Labels]:
    """Return logits and labels; the larger `sure`, the more frames are right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, frames)
    logits = rng.normal(0, 1.5, (frames, classes))
    logits[np.arange(frames), labels] += sure
    return logits.astype(np.float32), labels


def score(name: str, clean: tuple[Float32, Labels], logits: Float32) -> float:
    """Return a score by name, its reference sent through JSON."""
    reference = SCORES[name].reference([(record(clean[0]), clean[1])])
    return SCORES[name](record(logits), json.loads(json.dumps(reference)))


# --- by hand ---------------------------------------------------------------------------------

CLEAN = of_probabilities([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
LABELS = np.array([0, 0, 1, 1])  # the third is wrong
DARK = of_probabilities([[0.85, 0.15], [0.72, 0.28], [0.55, 0.45], [0.52, 0.48]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("average_confidence", 100 * (0.85 + 0.72 + 0.55 + 0.52) / 4),
        # 0.75 - (0.75 - 0.66)
        ("difference_of_confidences", 0.66),
        # One of four is wrong, so t lies between the two least confidences, 0.6 and 0.7.
        ("atc_confidence", 0.5),
        ("atc_entropy", 0.5),
        # As many labels 0 as 1: the two least sure of 0 have to be 1.
        ("cot", (0.85 + 0.72 + 0.45 + 0.48) / 4),
        # Costs of the clean frames: 0.1, 0.2, 0.7, 0.4, so t is halfway from 0.4 to 0.7; of the
        # dark ones: 0.15, 0.28, 0.55, 0.52.
        ("cott", 0.75),
    ],
)
def test_scores_with_a_reference_by_hand(name: str, expected: float) -> None:
    assert score(name, (CLEAN, LABELS), DARK) == pytest.approx(expected, abs=1e-6)


def test_dispersion_by_hand() -> None:
    assert dispersion(of_probabilities([[0.9, 0.1], [0.1, 0.9]])) == pytest.approx(1)
    # The mean prediction is (0.8, 0.2).
    expected = -(0.8 * math.log2(0.8) + 0.2 * math.log2(0.2))
    assert dispersion(of_probabilities([[0.9, 0.1], [0.7, 0.3]])) == pytest.approx(expected)


def test_mano_of_an_unsure_window_by_hand() -> None:
    # v = 1, 2.5, 5 for logits 0, 1, 2; less the least 0, 1.5, 4: Q = 0, 3/11, 8/11.
    expected = ((3**4 + 8**4) / 11**4 / 3) ** 0.25
    assert mano(np.array([[0, 1, 2], [2, 0, 1]], np.float32)) == pytest.approx(expected)


def test_mano_of_a_sure_window_by_hand() -> None:
    # -ln p is 0 and twice 20: a mean of 40 / 3 > 5. So Q = 1, 0, 0.
    x = np.array([[20, 0, 0]], np.float32)
    assert mano(x) == pytest.approx(3**-0.25, rel=1e-6)


def test_mano_of_equal_logits_is_that_of_a_uniform_distribution() -> None:
    assert mano(np.full((3, 5), 2.0, np.float32)) == pytest.approx(0.2)


def test_mde_by_hand() -> None:
    # Energies -ln 2 and -ln 4 (two logits ln 1, two ln 2), softmax 2/3 and 1/3.
    x = np.log(np.array([[1, 1], [2, 2]])).astype(np.float32)
    expected = -(math.log(2 / 3) + math.log(1 / 3)) / 2 - math.log(2)
    assert mde(x) == pytest.approx(expected, abs=1e-6)
    assert mde(np.ones((4, 3), np.float32)) == pytest.approx(0, abs=1e-12)


# --- the formulas, written down once more ------------------------------------------------------


def atc_formula(confidence: Float64, wrong: float, values: Float64) -> float:
    """Pick the observed t that brings E[s < t] closest to the error; return E[s >= t]."""
    candidates = np.append(np.sort(confidence), np.inf)
    misses = [abs((confidence < t).mean() - wrong) for t in candidates]
    return float((values >= candidates[int(np.argmin(misses))]).mean())


@pytest.mark.parametrize("name", ["atc_confidence", "atc_entropy"])
@pytest.mark.parametrize("seed", range(5))
def test_atc_is_its_formula(name: str, seed: int) -> None:
    logits, labels = window(seed)
    p = softmax(logits.astype(float), axis=1)
    s = p.max(axis=1) if name == "atc_confidence" else (p * np.log(p)).sum(axis=1)
    # On the frames themselves, where halfway and observed thresholds cannot differ.
    wrong = float((p.argmax(axis=1) != labels).mean())
    found = score(name, (logits, labels), logits)
    assert found == pytest.approx(atc_formula(s, wrong, s))
    assert found == pytest.approx(1 - wrong)


@given(seed=SEEDS, frames=st.integers(1, 7), classes=st.integers(2, 5))
@settings(deadline=None, max_examples=30)
def test_cot_is_the_linear_program(seed: int, frames: int, classes: int) -> None:
    logits, _ = window(seed, frames, classes)
    _, labels = window(seed + 1, 9, classes)
    p = softmax(logits.astype(float), axis=1)
    share = label_shares(labels, classes)
    distance = np.abs(p[:, None] - np.eye(classes)).sum(axis=2) / 2
    rows_sum = np.kron(np.eye(frames), np.ones(classes))
    columns_sum = np.kron(np.ones(frames), np.eye(classes))
    best = optimize.linprog(
        distance.ravel(),
        A_eq=np.vstack([rows_sum, columns_sum]),
        b_eq=np.concatenate([np.full(frames, 1 / frames), share]),
    )
    found = frame_costs(logits, labels)
    assert found.mean() == pytest.approx(best.fun, abs=1e-3)
    reference = {"labels": labels.tolist()}
    assert SCORES["cot"](record(logits), reference) == pytest.approx(1 - found.mean())


def test_label_shares_are_as_uniform_as_the_labels_allow() -> None:
    few = np.array([0, 7, 3])  # all different: nothing speaks against uniform
    np.testing.assert_allclose(label_shares(few, 10), 0.1)
    np.testing.assert_allclose(label_shares(np.array([4]), 10), 0.1)
    # Counts 8 and 2: variance 1 - 0.68, distance 9 * 2 * 0.3^2, lambda 0.32 / 1.62.
    shrinkage = 0.32 / 1.62
    expected = [shrinkage / 2 + (1 - shrinkage) * 0.8, shrinkage / 2 + (1 - shrinkage) * 0.2]
    np.testing.assert_allclose(label_shares(np.repeat([0, 1], [8, 2]), 2), expected)
    many = np.repeat([0, 1], [8000, 2000])
    np.testing.assert_allclose(label_shares(many, 2), [0.8, 0.2], atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_costs_of_whole_labels_are_an_assignment(seed: int) -> None:
    frames, classes = 40, 5
    logits, _ = window(seed, frames, classes)
    p = softmax(logits.astype(float), axis=1)
    labels = np.repeat(np.arange(classes), 8)
    row, column = optimize.linear_sum_assignment(1 - p[:, labels])
    cost = (1 - p[:, labels])[row, column]
    np.testing.assert_allclose(frame_costs(logits, labels), cost, atol=1e-3)


@pytest.mark.parametrize("sure", [0.0, 2.0, 5.0])
def test_cott_of_clean_images_is_their_accuracy(sure: float) -> None:
    logits, labels = window(3, 80, 5, sure)
    accuracy = (logits.argmax(axis=1) == labels).mean()
    assert score("cott", (logits, labels), logits) == pytest.approx(accuracy, abs=1 / 80)


def test_cott_of_several_clean_windows_is_their_accuracy() -> None:
    """Also where there are fewer frames than classes, so that costs depend on how many."""
    clean = [(record(x), y) for x, y in (window(seed, 30, 100, sure=5) for seed in range(3))]
    cott = SCORES["cott"]
    known = cott.reference(clean)
    shares = [cott(of, known) for of, _ in clean]
    right = [(of.deployed.label == labels).mean() for of, labels in clean]
    assert np.mean(shares) == pytest.approx(np.mean(right), abs=1 / 90)
    assert 0.3 < np.mean(right) < 0.97


@pytest.mark.parametrize("sure", [2.0, 20.0])
def test_mano_is_its_formula(sure: float) -> None:
    logits, _ = window(0, 30, 12, sure)
    q = logits.astype(float)
    frames, classes = q.shape
    phi = -sum(math.log(np.exp(x)[k] / np.exp(x).sum()) for x in q for k in range(classes))
    total = 0.0
    for x in q:
        if phi / (frames * classes) > 5:
            v = np.exp(x)
        else:
            v = 1 + x + x**2 / 2
            v = v - v.min()
        total += sum(abs(value / v.sum()) ** 4 for value in v)
    assert (phi / (frames * classes) > 5) == (sure > 10)  # both rules are seen
    assert mano(logits) == pytest.approx((total / (frames * classes)) ** 0.25)


def test_mde_is_its_formula() -> None:
    logits, _ = window(1)
    energy = -np.log(np.exp(logits.astype(float)).sum(axis=1))
    terms = [math.log(math.exp(z) / np.exp(energy).sum()) for z in energy]
    assert mde(logits) == pytest.approx(-sum(terms) / len(terms) - math.log(len(terms)))


# --- optimal transport ---------------------------------------------------------------------------


@given(seed=SEEDS, frames=st.integers(1, 12), classes=st.integers(1, 12), empty=st.booleans())
@settings(deadline=None, max_examples=60)
def test_transport_is_feasible_and_as_cheap_as_the_linear_program(
    seed: int, frames: int, classes: int, empty: bool
) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 1, (frames, classes)).round(int(rng.integers(1, 8)))  # with ties
    capacity = rng.dirichlet(np.ones(classes)) * frames
    if empty and classes > 1:
        capacity[0] = 0
        capacity *= frames / capacity.sum()
    flow = transport(cost, capacity)
    assert (flow >= 0).all()
    np.testing.assert_allclose(flow.sum(axis=1), 1, atol=1e-8)
    np.testing.assert_allclose(flow.sum(axis=0), capacity, atol=1e-7)
    equal = np.vstack(
        [np.kron(np.eye(frames), np.ones(classes)), np.kron(np.ones(frames), np.eye(classes))]
    )
    best = optimize.linprog(
        cost.ravel(), A_eq=equal, b_eq=np.concatenate([np.ones(frames), capacity])
    )
    assert (flow * cost).sum() == pytest.approx(best.fun, abs=1e-7)


# --- thresholds and temperature ------------------------------------------------------------------


@pytest.mark.parametrize("wrong", range(6))
def test_as_many_values_lie_below_the_threshold_as_are_wrong(wrong: int) -> None:
    values = np.array([0.3, 0.9, 0.1, 0.7, 0.5])
    threshold = split(values, wrong)
    assert (values < threshold).sum() == wrong
    assert share_above(values, threshold) == pytest.approx(1 - wrong / 5)


def test_temperature_of_scaled_calibrated_logits_is_the_scale() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (200_000, 3))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from the softmax
    assert fit_temperature((2.5 * logits).astype(np.float32), labels) == pytest.approx(
        2.5, rel=0.02
    )


@given(seed=SEEDS, sure=st.floats(-1, 4), scale=st.floats(0.05, 20))
@settings(deadline=None, max_examples=40)
def test_no_temperature_has_less_nll(seed: int, sure: float, scale: float) -> None:
    logits, labels = window(seed, 50, 4, sure)
    logits = (logits * np.float32(scale)).astype(np.float32)
    x = logits.astype(float)

    def nll(log_temperature: float) -> float:
        y = x / math.exp(log_temperature)
        return float((logsumexp(y, axis=1) - y[np.arange(50), labels]).mean())

    found = fit_temperature(logits, labels)
    bounds = (math.log(0.01), math.log(100))
    best = optimize.minimize_scalar(nll, bounds=bounds, method="bounded")
    assert 0.01 <= found <= 100
    assert nll(math.log(found)) <= best.fun + 1e-7


def test_temperature_stays_in_its_bounds() -> None:
    right = np.eye(3, dtype=np.float32)
    assert fit_temperature(right, np.arange(3)) == pytest.approx(0.01)
    assert fit_temperature(right, np.array([1, 2, 0])) == pytest.approx(100)


def test_a_class_that_was_ruled_out_does_not_count_for_the_temperature() -> None:
    logits, labels = window(0)
    out = np.full((1, logits.shape[1]), -np.inf, np.float32)
    out[0, 0] = 1
    with_impossible = np.concatenate([logits, out])
    found = fit_temperature(with_impossible, np.append(labels, 1))
    assert found == pytest.approx(fit_temperature(logits, labels))


def test_tempered_scores_are_those_of_tempered_logits() -> None:
    (clean, labels), (dark, _) = window(0), window(1, sure=1)
    known = References.of([(record(clean), labels)])
    assert References(**json.loads(json.dumps(known.to_json()))) == known
    assert known.temperature == fit_temperature(clean, labels)
    assert known.temperature != pytest.approx(1, abs=0.1)
    found = evaluate(KEYS, record(dark), known)
    divided = [(x / known.temperature).astype(np.float32) for x in (clean, dark)]
    for name in SCORES:
        plain = score(name, (clean, labels), dark)
        tempered = score(name, (divided[0], labels), divided[1])
        assert found[name] == pytest.approx(plain, rel=1e-9), name
        assert found[f"{name}_tempered"] == pytest.approx(tempered, rel=1e-6), name
    assert len(found) == 2 * len(SCORES)


def test_scaling_keeps_labels_and_scales_everything_else() -> None:
    logits, _ = window(0)
    before = record(logits)
    after = scaled(before, 2)
    for one in (after.deployed, after.before, after.after):
        np.testing.assert_array_equal(one.label, before.deployed.label)
        np.testing.assert_allclose(one.logits, logits / 2)
        np.testing.assert_allclose(one.confidence, softmax(logits / 2.0, axis=1).max(axis=1), 1e-5)


# --- what holds for all ----------------------------------------------------------------------


@given(seed=SEEDS, frames=st.integers(2, 25), classes=st.integers(2, 9))
@settings(deadline=None, max_examples=40)
def test_order_of_frames_and_classes_does_not_matter(seed: int, frames: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    (clean, labels), (dark, _) = window(seed, frames, classes), window(seed + 1, frames, classes, 0)
    order, renamed = rng.permutation(frames), rng.permutation(classes)
    place = np.argsort(renamed)
    for name in SCORES:
        # Where optimal plans are many, COTT depends on which one is found.
        if name == "cott":
            continue
        expected = score(name, (clean, labels), dark)
        moved = (clean[order][:, renamed], place[labels][order])
        assert score(name, moved, dark[order][:, renamed]) == pytest.approx(
            expected, rel=1e-5, abs=1e-6
        ), name


@given(seed=SEEDS)
@settings(deadline=None, max_examples=20)
def test_scores_of_probabilities_do_not_see_the_zero_of_logits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (clean, labels), (dark, _) = window(seed), window(seed + 1, sure=0)
    lift = rng.integers(-8, 8, (len(dark), 1)).astype(np.float32)
    for name in SCORES.keys() - {"mano", "mde"}:
        expected = score(name, (clean, labels), dark)
        assert score(name, (clean, labels), dark + lift) == pytest.approx(
            expected, rel=1e-4, abs=0.02 if name.startswith(("atc", "cott")) else 1e-5
        ), name
    # One zero for the whole window does not matter to energies.
    assert mde(dark + np.float32(3)) == pytest.approx(mde(dark), abs=1e-5)


# Made-up logits spread alike whatever their quality, so these two have cases of their own below.
@pytest.mark.parametrize("name", sorted(SCORES.keys() - {"dispersion", "mde", "aetta"} - COUNTS))
def test_scores_rise_with_accuracy(name: str) -> None:
    clean = window(0, 300)
    windows = [window(int(10 * q), 300, sure=q) for q in np.linspace(0.5, 5, 8)]
    accuracy = [(x.argmax(axis=1) == y).mean() for x, y in windows]
    assert np.all(np.diff(accuracy) > 0)
    assert np.all(np.diff([score(name, clean, x) for x, _ in windows]) > 0)


def test_dispersion_falls_when_predictions_crowd_on_a_class() -> None:
    logits, _ = window(0)
    crowded = logits + 2 * np.eye(logits.shape[1], dtype=np.float32)[0]
    assert dispersion(crowded) < dispersion(logits)


def test_mde_falls_when_frames_get_alike() -> None:
    logits, _ = window(0)
    assert mde(logits + 3 * (logits.mean(axis=0) - logits) / 4) < mde(logits)


@pytest.mark.parametrize(
    "function", [certainty, dispersion, nuclear_norm, mano, mde, lambda x: soft_agreement(x, x / 2)]
)
@pytest.mark.parametrize("shape", [(30, 7), (7, 30)])
def test_a_score_is_the_same_piece_by_piece(
    function: Callable[[Float32], float], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, _ = window(5, *shape, 9.0)
    whole = function(logits)
    monkeypatch.setattr(rows, "_ELEMENTS", 64)  # two to nine rows a piece
    assert function(logits) == pytest.approx(whole, rel=1e-9)


def test_a_class_that_is_ruled_out_is_no_trouble() -> None:
    (clean, labels), (dark, _) = window(0), window(1)
    for logits in (clean, dark):
        logits[:, 3] = -np.inf
        logits[:2] = [0, 200, 0, -np.inf, 0, 0, 0]  # probabilities of exactly 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(KEYS, record(dark), References.of([(record(clean), labels)]))
    assert [key for key, value in found.items() if not math.isfinite(value)] == []


def test_many_classes_need_little_memory() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (64, 65_536)).astype(np.float32)
    logits[np.arange(64), rng.integers(0, 65_536, 64)] += 15
    labels = logits.argmax(axis=1)
    labels[::4] = 0
    tracemalloc.start()
    for name in SCORES:
        assert math.isfinite(score_of_many(name, logits, labels)), name
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The logits are 16 MiB; float64 copies of them would be 32 MiB each.
    assert peak < 80 * 2**20


def score_of_many(name: str, logits: Float32, labels: Labels) -> float:
    # Not `record`, whose float64 probabilities would count.
    deployed = Predictions(logits.argmax(axis=1), np.zeros(len(logits)), logits)
    burst = BurstRecord(deployed, deployed, deployed, (), 0.0, logits[None])
    return SCORES[name](burst, SCORES[name].reference([(burst, labels)]))
