"""The NumPy kernel against PyTorch in float64, and the rows that break careless softmaxes."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from edgewf.kernels.reference import (
    Objective,
    em_objective,
    em_reduce,
    labels,
    sgd_update,
    softmax_entropy,
)

TENT = Objective()
INF, NAN = math.inf, math.nan


def eata(K: int, share: float = 0.4, d: float = 0.4) -> Objective:
    return Objective(share * math.log(K), d, weighted=True)


def normal(B: int, K: int, scale: float = 3.0, seed: int = 0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).normal(size=(B, K))).astype(np.float32)


class Published:
    """Tent's and EATA's loss as their papers state it, differentiated by autograd."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.mean: Tensor | None = None

    def __call__(self, logits: NDArray[np.floating]) -> tuple[NDArray[np.float64], Tensor, Tensor]:
        """Return d loss / d logits, the samples reliable and those selected."""
        o = self.objective
        z = torch.from_numpy(np.asarray(logits, np.float64)).requires_grad_()
        log_p = z.log_softmax(1)
        p = log_p.exp()
        H = -(p * log_p).sum(1)
        reliable = o.entropy_margin > H
        selected = reliable
        if self.mean is not None and math.isfinite(o.redundancy_margin):
            cosine = F.cosine_similarity(self.mean[None], p, dim=1)
            selected = reliable & (cosine.abs() < o.redundancy_margin)
        if not selected.any():
            return np.zeros_like(z.detach().numpy()), reliable, selected
        weight = torch.exp(o.entropy_margin - H.detach()) if o.weighted else torch.ones_like(H)
        (weight * H)[selected].mean().backward()  # type: ignore[no-untyped-call]
        new = p.detach()[selected].mean(0)
        self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
        assert z.grad is not None
        return z.grad.numpy(), reliable, selected


def check_batches(objective: Objective, batches: list[NDArray[np.floating]]) -> list[int]:
    """Compare batch after batch, the running mean carried along; return the numbers selected."""
    published = Published(objective)
    mean = None
    counts = []
    for logits in batches:
        gradient, reliable, selected = published(logits)
        rows = em_objective(logits, objective, mean)
        count, mean = em_reduce(rows, mean)
        counts.append(count)
        assert count == int(selected.sum())
        np.testing.assert_array_equal(rows.reliable, reliable.numpy())
        np.testing.assert_array_equal(rows.selected, selected.numpy())
        assert rows.dlogits.dtype == np.float32
        # log p of a certain sample is a difference of numbers as large as the logits.
        rounding = 1e-7 * abs(gradient).max() + 1e-13
        np.testing.assert_allclose(rows.dlogits / max(count, 1), gradient, rtol=1e-6, atol=rounding)
        if published.mean is None:
            assert mean is None
        else:
            assert mean is not None
            np.testing.assert_allclose(mean, published.mean.numpy(), rtol=1e-12)
    return counts


@pytest.mark.parametrize(("K", "d"), [(2, 0.9), (10, 0.4), (1000, 0.05)])
def test_agrees_with_eata_over_batches(K: int, d: float) -> None:
    # Scales to make some samples certain and others not, whatever the number of classes.
    batches = [normal(24, K, scale, seed) for seed, scale in enumerate((8, 6, 0.1, 9, 7))]
    counts = check_batches(eata(K, d=d), list(batches))
    assert 0 < sum(counts) < 5 * 24, "some batch must tell samples apart"
    assert counts[2] == 0, "nothing selected in between must leave the mean alone"


def test_redundant_samples_stay_out_and_others_do_not() -> None:
    first, second = 20.0 * np.eye(4)[[0, 0, 0]], 20.0 * np.eye(4)[[0, 1, 2]]
    assert check_batches(eata(4), [first, second]) == [3, 2]


@given(
    B=st.integers(1, 12),
    K=st.integers(2, 40),
    scale=st.floats(0.01, 100),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    objective=st.sampled_from(["tent", "filter", "eata"]),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_autograd(
    B: int, K: int, scale: float, seed: int, dtype: type, objective: str
) -> None:
    chosen = {"tent": TENT, "filter": Objective(0.5 * math.log(K), 0.7), "eata": eata(K)}[objective]
    check_batches(chosen, [normal(B, K, scale, seed + i).astype(dtype) for i in range(3)])


@given(
    logits=st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=6)
)
@settings(max_examples=80, deadline=None)
def test_rows_are_distributions(logits: list[list[float]]) -> None:
    x = np.array(logits)
    rows = em_objective(x, TENT, None)
    assert (rows.probabilities >= 0).all()
    np.testing.assert_allclose(rows.probabilities.sum(axis=1), 1, rtol=1e-12)
    assert ((rows.entropy >= 0) & (rows.entropy <= math.log(3) + 1e-12)).all()
    assert ((rows.confidence >= 1 / 3 - 1e-12) & (rows.confidence <= 1)).all()
    np.testing.assert_array_equal(rows.label, x.argmax(axis=1))
    # Adding the same number to all logits changes nothing, so neither does the gradient's sum.
    np.testing.assert_allclose(rows.dlogits.sum(axis=1), 0, atol=1e-6)


def test_confidence_and_label_belong_together() -> None:
    rows = em_objective(normal(50, 7), TENT, None)
    picked = np.take_along_axis(rows.probabilities, rows.label[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(rows.confidence, picked)


def test_binary_row_by_hand() -> None:
    rows = em_objective(np.array([[math.log(3), 0.0]]), TENT, None)  # p = 3/4, 1/4
    H = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert rows.entropy[0] == pytest.approx(H)
    assert rows.confidence[0] == pytest.approx(0.75)
    slope = -0.75 * (math.log(0.75) + H)
    np.testing.assert_allclose(rows.dlogits[0], [slope, -slope], rtol=1e-6)


FINITE_ROWS = {
    "equal": ([2.0, 2.0, 2.0], math.log(3)),
    "far apart": ([1e4, 0.0, -1e4], 0.0),
    "far below zero": ([-1e4, -1e4, -2e4], math.log(2)),
    "largest float32": ([3.4e38, -3.4e38, 0.0], 0.0),
    "-inf": ([1.0, -INF, 1.0], math.log(2)),
    "all but one -inf": ([-INF, 5.0, -INF], 0.0),
}
BROKEN_ROWS = {
    "+inf": ([0.0, INF, 0.0], 1),
    "two +inf": ([0.0, INF, INF], 1),
    "NaN": ([NAN, 1.0, 3.0], 2),
    "NaN and +inf": ([NAN, 0.0, INF], 2),
    "all NaN": ([NAN, NAN, NAN], 0),
    "all -inf": ([-INF, -INF, -INF], 0),
}


@pytest.mark.parametrize("name", FINITE_ROWS)
def test_entropy_of_hard_rows(name: str) -> None:
    row, entropy = FINITE_ROWS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = em_objective(np.array([row], np.float32), TENT, None)
    assert rows.entropy[0] == pytest.approx(entropy, abs=1e-12)
    assert rows.confidence[0] == pytest.approx(math.exp(-entropy))
    assert rows.selected.all()
    # All are flat in entropy: at its ends, or evenly split between what is left.
    np.testing.assert_allclose(rows.dlogits, 0, atol=1e-6)


@pytest.mark.parametrize("name", BROKEN_ROWS)
@pytest.mark.parametrize("objective", [TENT, eata(3)], ids=["tent", "eata"])
def test_broken_rows_stay_out_and_harm_no_other(name: str, objective: Objective) -> None:
    row, label = BROKEN_ROWS[name]
    sound = np.array([[9.0, 0.0, 1.0]], np.float32)
    logits = np.array([*sound, row], np.float32)
    mean = np.array([0.1, 0.1, 0.8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = em_objective(logits, objective, mean)
        alone = em_objective(sound, objective, mean)
    assert rows.label.tolist() == [0, label]
    assert math.isnan(rows.entropy[1])
    assert rows.selected.tolist() == [True, False]
    assert not rows.reliable[1]
    assert (rows.dlogits[1] == 0).all()
    np.testing.assert_array_equal(rows.dlogits[0], alone.dlogits[0])
    count, new = em_reduce(rows, mean)
    assert count == 1
    np.testing.assert_array_equal(new, em_reduce(alone, mean)[1])


def test_a_probability_of_zero_gets_no_gradient() -> None:
    rows = em_objective(np.array([[1.0, -INF, 0.0]]), TENT, None)
    expected, _, _ = Published(TENT)(np.array([[1.0, 0.0]]))
    assert rows.dlogits[0, 1] == 0
    np.testing.assert_allclose(rows.dlogits[0, [0, 2]], expected[0], rtol=1e-6)


def test_ties_go_to_the_lowest_index() -> None:
    x = np.array([[1, 3, 3, 3], [2, 2, 2, 2], [NAN, 3, 3, 0], [INF, 0, INF, NAN]], np.float32)
    assert labels(x).tolist() == [1, 0, 1, 0]


def test_float16_is_computed_in_float64() -> None:
    x = normal(8, 5).astype(np.float16)
    for found, expected in zip(
        softmax_entropy(x), softmax_entropy(x.astype(np.float64)), strict=True
    ):
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected)


def test_margins_exclude_their_own_value() -> None:
    x = np.zeros((1, 4))
    entropy = float(softmax_entropy(x)[2][0])
    assert not em_objective(x, Objective(entropy), None).reliable[0]
    assert em_objective(x, Objective(np.nextafter(entropy, 9)), None).reliable[0]


def test_nothing_selected_keeps_mean_affine_and_velocity() -> None:
    rows = em_objective(np.zeros((4, 3)), eata(3), None)
    assert em_reduce(rows, None) == (0, None)
    assert not rows.dlogits.any()
    mean = np.full(3, 1 / 3)
    count, same = em_reduce(rows, mean)
    assert count == 0
    assert same is mean
    affine, velocity = np.ones(5, np.float32), np.full(5, 0.5, np.float32)
    moved = sgd_update(
        affine, velocity, np.ones(5, np.float32), n_selected=0, learning_rate=0.1, momentum=0.9
    )
    assert not moved
    assert (affine == 1).all()
    assert (velocity == 0.5).all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    affine, velocity = np.ones(5, np.float32), np.full(5, 0.5, np.float32)
    gradient = np.array([1, 2, bad, 4, 5], np.float32)
    assert not sgd_update(affine, velocity, gradient, n_selected=3, learning_rate=0.1, momentum=0.9)
    assert (affine == 1).all()
    assert (velocity == 0.5).all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_are_those_of_torch(momentum: float) -> None:
    rng = np.random.default_rng(0)
    affine, velocity = rng.normal(size=30).astype(np.float32), np.zeros(30, np.float32)
    parameter = torch.from_numpy(affine.copy()).requires_grad_()
    optimizer = torch.optim.SGD([parameter], lr=0.05, momentum=momentum)
    for n_selected in (1, 7, 64, 3):
        mean_gradient = rng.normal(size=30).astype(np.float32)
        parameter.grad = torch.from_numpy(mean_gradient)
        optimizer.step()
        summed = mean_gradient * np.float32(n_selected)
        before = summed.copy()
        assert sgd_update(
            affine, velocity, summed, n_selected=n_selected, learning_rate=0.05, momentum=momentum
        )
        np.testing.assert_array_equal(summed, before, "the gradient is only read")
        np.testing.assert_allclose(affine, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert affine.dtype == velocity.dtype == np.float32


def test_loss_scale_is_divided_out() -> None:
    gradient = np.random.default_rng(0).normal(size=9).astype(np.float32)
    results = []
    for scale in (1.0, 1024.0):
        affine, velocity = np.zeros(9, np.float32), np.zeros(9, np.float32)
        sgd_update(
            affine,
            velocity,
            gradient * np.float32(scale),
            n_selected=6,
            learning_rate=0.1,
            momentum=0.9,
            loss_scale=scale,
        )
        results.append((affine, velocity))
    np.testing.assert_allclose(results[0][0], -0.1 * gradient / 6, rtol=1e-6)
    # A power of two scales float32 without rounding.
    np.testing.assert_array_equal(results[0], results[1])
