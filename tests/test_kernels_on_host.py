"""The CUDA kernels, run thread by thread on the CPU, against the NumPy kernel in float64."""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.gpu import kernels as gpu_check
from edgewf.engines import Predictions
from edgewf.flips import count_flips, rank_weights
from edgewf.kernels import device, layout, reference
from edgewf.kernels.device import BurstKernels, FloatType, Mode
from edgewf.kernels.geometry import Geometry
from edgewf.kernels.reference import Objective
from tests.cuda_on_host import Memory, cubin, device_array, driver, library
from tests.hard_rows import hard_rows

INF, NAN = math.inf, math.nan
TENT = Objective()
STREAM = SimpleNamespace(synchronize=lambda: None)
ANY_BUILD = device.definitions(Geometry.of(2, 4), "float", "float")

Array = NDArray[Any]


def kernels(
    classes: int,
    *,
    affine: Array | None = None,
    window: int = 24,
    steps: int = 4,
    logits: FloatType = "float32",
    dlogits: FloatType = "float32",
    loss_scale: float = 1.0,
    backwards: bool = False,
) -> BurstKernels:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "pycuda_driver", lambda: driver(backwards=backwards))
        patch.setattr(device, "cubin", cubin)
        return BurstKernels(
            np.ones(3, np.float32) if affine is None else affine,
            classes=classes,
            window=window,
            steps=steps,
            logits_dtype=logits,
            dlogits_dtype=dlogits,
            loss_scale=loss_scale,
            stream=STREAM,
        )


def peek(burst: BurstKernels, name: str) -> Array:
    """Return a copy of one of the burst's buffers."""
    block = np.frombuffer(ctypes.string_at(int(burst._memory), burst._arena.bytes), np.uint8)
    return burst._arena.view(block, name)


def gaps(burst: BurstKernels) -> Array:
    """Return the bytes between the burst's buffers."""
    size = burst._arena.bytes
    block = np.frombuffer(ctypes.string_at(int(burst._memory), size), np.uint8)
    used = np.zeros(size, np.uint8)
    for name in layout.POINTERS:
        burst._arena.view(used, name).view(np.uint8)[...] = 1
    return block[used == 0]


def stored(x: Array, dtype: FloatType, shift: int = 0) -> tuple[Array, Array]:
    """Return x as it lies in device memory, and the numbers that it then holds."""
    if dtype == "bfloat16":
        bits = np.asarray(x, np.float32).view(np.uint32) >> 16  # cut off: only the values matter
        held = (bits << 16).astype(np.uint32).view(np.float32)
        return device_array(bits.astype(np.uint16), shift), held
    held = np.asarray(x, dtype)
    return device_array(held, shift), held


def loaded(x: Array, dtype: FloatType) -> Array:
    if dtype == "bfloat16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def take_step(
    burst: BurstKernels,
    x: Array,
    *,
    logits: FloatType = "float32",
    dlogits: FloatType = "float32",
    shift: int = 0,
) -> tuple[Array, Array]:
    """Run the objective; return the gradient and the logits as the kernel saw them."""
    held_on_device, held = stored(x, logits, shift)
    out = device_array(np.full(x.shape, 7, np.uint16 if dlogits == "bfloat16" else dlogits), shift)
    burst.objective(Mode.STEP, held_on_device.ctypes.data, len(x), out.ctypes.data)
    return loaded(out, dlogits), held


def reduce(burst: BurstKernels, x: Array) -> None:
    on_device = device_array(x)
    burst.reduce(on_device.ctypes.data, len(x))


def update(burst: BurstKernels, gradient: Array) -> None:
    on_device = device_array(gradient)
    burst.update(on_device.ctypes.data)


def record(burst: BurstKernels, x: Array, *modes: Mode) -> None:
    on_device = device_array(x)
    for mode in modes or (Mode.DEPLOYED, Mode.BEFORE, Mode.AFTER):
        burst.objective(mode, on_device.ctypes.data, len(x))


def eata(K: int, share: float = 0.4, d: float = 0.4) -> Objective:
    return Objective(share * math.log(K), d, weighted=True)


def normal(B: int, K: int, scale: float = 3.0, seed: int = 0) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).normal(size=(B, K))).astype(np.float32)


def check_rows(burst: BurstKernels, found: Array, rows: reference.Rows, scale: float = 1.0) -> None:
    """Compare a step's rows and gradient with the reference, row by row."""
    B = len(rows.label)
    admitted = peek(burst, "row_admitted")[:B]
    np.testing.assert_array_equal(admitted >= 1, rows.reliable)
    np.testing.assert_array_equal(admitted == 2, rows.selected)
    np.testing.assert_allclose(
        peek(burst, "row_entropy")[:B], rows.entropy, rtol=2e-5, atol=1e-14, equal_nan=True
    )
    largest = abs(rows.dlogits).max(axis=1, keepdims=True) * scale
    # Each row by its own largest gradient, so that those of certain samples count too; below 1e-8
    # it is float64 that has run out of digits.
    error = abs(found - scale * rows.dlogits.astype(np.float64)) / np.maximum(largest, 1e-8)
    assert error.max() < 2e-5
    assert (found[~rows.selected] == 0).all()


# Short and long rows, whole numbers of chunks and not, one lane and a block, and read twice.
CLASSES = [2, 3, 10, 33, 100, 257, 1000, 1001, 8193]


@pytest.mark.parametrize("K", CLASSES)
@pytest.mark.parametrize("objective", ["tent", "rdumb"])
def test_objective_agrees_with_reference(K: int, objective: str) -> None:
    burst = kernels(K)
    chosen = TENT if objective == "tent" else eata(K, share=0.6, d=0.8)
    burst.reset(chosen, learning_rate=0.1, momentum=0.9)
    mean = None
    for seed, scale in enumerate((8, 5)):
        x = normal(4, K, scale * math.sqrt(math.log(K)), seed)
        x[1] *= 0.01  # not reliable
        rows = reference.em_objective(x, chosen, mean)
        found, _ = take_step(burst, x)
        check_rows(burst, found, rows)
        if K > 1001:
            break  # the reduction over many classes is slow here, and the same as over few
        _, mean = reference.em_reduce(rows, mean)
        reduce(burst, x)
        update(burst, np.ones(3, np.float32))
        if objective == "rdumb":
            assert mean is not None
            np.testing.assert_allclose(peek(burst, "mean"), mean, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("logits", "dlogits"),
    [
        ("float32", "float16"),
        ("float16", "float16"),
        ("float16", "float32"),
        ("bfloat16", "bfloat16"),
    ],
)
@pytest.mark.parametrize("K", [5, 130, 1000])
def test_types(logits: FloatType, dlogits: FloatType, K: int) -> None:
    burst = kernels(K, logits=logits, dlogits=dlogits, loss_scale=256.0)
    burst.reset(eata(K, share=0.8), learning_rate=0.1, momentum=0.9)
    found, held = take_step(burst, normal(5, K, 4), logits=logits, dlogits=dlogits)
    rows = reference.em_objective(held, eata(K, share=0.8), None)
    expected = 256.0 * rows.dlogits.astype(np.float64)
    assert rows.selected.any()
    digits = {"float32": 2e-5, "float16": 1e-3, "bfloat16": 8e-3}[dlogits]
    np.testing.assert_allclose(found, expected, rtol=digits, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("K", [3, 11, 40, 600])
def test_hard_rows(K: int) -> None:
    x = hard_rows(K)
    burst = kernels(K, window=len(x))
    for objective in (TENT, eata(K)):
        burst.reset(objective, learning_rate=0.1, momentum=0.9)
        with np.errstate(all="ignore"):
            rows = reference.em_objective(x, objective, None)
        found, _ = take_step(burst, x)
        assert not np.isnan(found).any()
        check_rows(burst, found, rows)
    assert rows.selected.any()
    assert not rows.selected.all()
    record(burst, x)
    seen = burst.read()
    np.testing.assert_array_equal(seen.label[0], rows.label)
    np.testing.assert_allclose(seen.confidence[0], rows.confidence, rtol=1e-5, equal_nan=True)


@given(
    K=st.integers(2, 70),
    B=st.integers(1, 9),
    scale=st.floats(0.01, 60),
    seed=st.integers(0, 2**32 - 1),
    shift=st.sampled_from([0, 4, 16]),
    weighted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_row(K: int, B: int, scale: float, seed: int, shift: int, weighted: bool) -> None:
    objective = eata(K, share=0.7, d=0.9) if weighted else TENT
    burst = kernels(K)
    burst.reset(objective, learning_rate=0.1, momentum=0.9)
    x = normal(B, K, scale, seed)
    found, _ = take_step(burst, x, shift=shift)
    check_rows(burst, found, reference.em_objective(x, objective, None))


@pytest.mark.parametrize("K", [10, 300])
def test_redundant_is_told_by_the_cosine_to_three_digits(K: int) -> None:
    first, x = normal(8, K, 4), normal(8, K, 4, seed=1)
    _, mean = reference.em_reduce(reference.em_objective(first, TENT, None), None)
    assert mean is not None
    p, _, _ = reference.softmax_entropy(x)
    cosine = p @ mean / np.linalg.norm(p, axis=1) / np.linalg.norm(mean)
    for d in (*(0.999 * cosine[:3]), *(1.001 * cosine[:3])):
        objective = Objective(100.0, float(d))
        burst = kernels(K)
        burst.reset(objective, learning_rate=0.1, momentum=0.9)
        take_step(burst, first)
        reduce(burst, first)
        update(burst, np.ones(3, np.float32))
        found, _ = take_step(burst, x)
        check_rows(burst, found, reference.em_objective(x, objective, mean))


def test_ties_in_the_maximum_go_to_the_lowest_class_wherever_it_lies() -> None:
    K = 1001
    x = np.zeros((6, K), np.float32)
    places = [[0, 1000], [999, 1000], [255, 256], [31, 500, 700], [4, 8], [1000]]
    for row, tied in zip(x, places, strict=True):
        row[tied] = 1.5
    burst = kernels(K)
    burst.reset(TENT, learning_rate=0.1, momentum=0.9)
    record(burst, x)
    assert burst.read().label[2].tolist() == [tied[0] for tied in places]


def burst_of(K: int, *, backwards: bool = False, fp16: bool = False) -> tuple[Any, ...]:
    """Run a whole burst of 3 batches and 4 steps; return results, state and what went in."""
    B, P, scale = 8, 700, 128.0 if fp16 else 1.0
    rng = np.random.default_rng(K)
    affine = rng.normal(size=P).astype(np.float32)
    burst = kernels(
        K,
        affine=affine,
        dlogits="float16" if fp16 else "float32",
        loss_scale=scale,
        backwards=backwards,
    )
    objective = eata(K, share=0.7, d=0.9)
    windows = [normal(3 * B, K, 4, seed) for seed in range(3)]
    windows[0][5] = windows[0][3]  # equal confidences
    windows[1][9] = NAN
    batches = [normal(B, K, 5, 50 + seed) for seed in range(4)]
    batches[2][:] = 0  # nothing is selected
    gradients = [rng.normal(size=P).astype(np.float32) for _ in batches]
    gradients[3][P - 1] = INF

    def write(mode: Mode, window: Array) -> None:
        for part in np.split(window, 3):
            record(burst, part, mode)

    burst.reset(objective, learning_rate=0.1, momentum=0.9)
    write(Mode.DEPLOYED, windows[0])
    write(Mode.BEFORE, windows[1])
    burst.rank_weights()
    for x, gradient in zip(batches, gradients, strict=True):
        take_step(burst, x, dlogits="float16" if fp16 else "float32")
        reduce(burst, x)
        update(burst, gradient * np.float32(scale))
    write(Mode.AFTER, windows[2])
    return burst, burst.read(), objective, affine, windows, batches, gradients


@pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
def test_a_burst_is_that_of_the_reference(fp16: bool) -> None:
    burst, seen, objective, affine, windows, batches, gradients = burst_of(12, fp16=fp16)
    adapted, velocity, mean = affine.copy(), np.zeros_like(affine), None
    for step, (x, gradient) in enumerate(zip(batches, gradients, strict=True)):
        rows = reference.em_objective(x, objective, mean)
        selected, mean = reference.em_reduce(rows, mean)
        moved = reference.sgd_update(
            adapted, velocity, gradient, n_selected=selected, learning_rate=0.1, momentum=0.9
        )
        assert seen.samples[step] == len(x)
        assert seen.reliable[step] == rows.reliable.sum()
        assert seen.selected[step] == selected
        assert seen.mean_entropy[step] == pytest.approx(rows.entropy.mean(), rel=1e-6)
        assert seen.moved[step] == moved
    assert seen.moved.tolist() == [True, True, False, False]
    np.testing.assert_allclose(peek(burst, "affine"), adapted, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(peek(burst, "deployed"), affine)
    np.testing.assert_allclose(peek(burst, "mean"), mean, rtol=1e-5)
    assert seen.affine_change == pytest.approx(float(np.linalg.norm(adapted - affine)), rel=1e-5)
    with np.errstate(all="ignore"):
        expected = [reference.em_objective(x, TENT, None) for x in windows]
    np.testing.assert_array_equal(seen.label, [rows.label for rows in expected])
    confidence = [rows.confidence for rows in expected]
    np.testing.assert_allclose(seen.confidence, confidence, rtol=1e-5, equal_nan=True)
    for initial in (0, 1):
        flips = count_flips(
            Predictions(seen.label[initial], seen.confidence[initial], windows[initial]),
            seen.label[2],
        )
        per = 1000 / len(windows[0])
        assert seen.flips[initial] * per == pytest.approx(flips.count)
        assert seen.weighted_flips[initial] * per == pytest.approx(flips.weighted)
        flipped = seen.label[initial] != seen.label[2]
        np.testing.assert_array_equal(seen.flipped[initial], flipped)
        assert 0 < flipped.sum() < len(flipped)
        ranks = peek(burst, "twice_rank")[initial] / (2 * len(flipped))
        np.testing.assert_array_equal(ranks, rank_weights(seen.confidence[initial]))


def test_the_order_of_threads_makes_no_difference_to_a_bit() -> None:
    forwards, backwards = burst_of(300)[0], burst_of(300, backwards=True)[0]
    for name in (*layout.RESULT, "affine", "velocity", "mean"):
        np.testing.assert_array_equal(
            peek(forwards, name).view(np.uint8), peek(backwards, name).view(np.uint8), name
        )


def test_reset_forgets_the_burst_before() -> None:
    burst, first, *_ = burst_of(12)
    burst.reset(TENT, learning_rate=0.1, momentum=0.9)
    empty = burst.read()
    assert first.flips != (0, 0)
    assert empty.flips == (0, 0)
    assert empty.label.shape == (3, 0)
    assert empty.samples.shape == (0,)
    assert empty.affine_change == 0
    # The running mean of the burst before is not looked at either.
    objective = eata(12, share=0.9, d=1e-6)
    burst.reset(objective, learning_rate=0.1, momentum=0.9)
    found, x = take_step(burst, normal(8, 12, 5))
    check_rows(burst, found, reference.em_objective(x, objective, None))


def test_a_gradient_too_large_for_float16_stops_the_update() -> None:
    burst = kernels(10, dlogits="float16", loss_scale=2.0**24)
    burst.reset(TENT, learning_rate=0.1, momentum=0.9)
    found, _ = take_step(burst, normal(4, 10), dlogits="float16")
    assert np.isinf(found).any()


def test_more_than_there_is_room_for_is_refused_and_writes_nothing_outside() -> None:
    burst = kernels(4, window=8, steps=1)
    burst.reset(TENT, learning_rate=0.1, momentum=0.9)
    x = device_array(normal(5, 4))
    for _ in range(2):
        record(burst, x)
    labels = reference.labels(x)
    np.testing.assert_array_equal(peek(burst, "label")[0], [*labels, *labels[:3]])
    assert (gaps(burst) == Memory.UNTOUCHED).all()
    with pytest.raises(ValueError, match="10, 10 and 10 frames"):
        burst.read()
    burst.reset(TENT, learning_rate=0.1, momentum=0.9)
    before = peek(burst, "label").copy()
    for _ in range(2):
        take_step(burst, x)
        reduce(burst, x)
        update(burst, np.ones(3, np.float32))
    np.testing.assert_array_equal(peek(burst, "label"), before)
    with pytest.raises(ValueError, match="2 steps"):
        burst.read()
    with pytest.raises(ValueError, match="batch of 9 with room for 8"):
        burst.objective(Mode.DEPLOYED, x.ctypes.data, 9)
    with pytest.raises(ValueError, match="STEP"):
        burst.objective(Mode.STEP, x.ctypes.data, 5)


def test_the_gpu_check_passes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "pycuda_driver", driver)
    monkeypatch.setattr(device, "cubin", cubin)
    gpu = gpu_check.Gpu(driver(), STREAM)
    pairs = gpu_check.PAIRS
    few = gpu_check.correctness(gpu, classes=(3, 100), batches=(7,), pairs=(pairs[0], pairs[2]))
    assert few == {"cases": 16, "failures": [], "passed": True}
    again = gpu_check.reproducibility(gpu, B=8, K=100, runs=2)
    assert again == {"runs": 2, "different": 1, "passed": True}


def test_the_gpu_check_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "pycuda_driver", driver)
    monkeypatch.setattr(device, "cubin", cubin)
    gpu = gpu_check.Gpu(driver(), STREAM)
    x = normal(8, 10, 4)
    monkeypatch.setattr(reference, "em_objective", wrong_objective)
    found = gpu_check.compare(gpu, x, "float32", "float32", eata(10))
    assert found == ["gradient of step 0", "gradient of step 1", "label"]


def wrong_objective(*arguments: Any, right: Any = reference.em_objective) -> reference.Rows:
    rows: reference.Rows = right(*arguments)
    return replace(rows, dlogits=rows.dlogits * np.float32(1.001), label=rows.label + 1)


def test_half_is_numpys() -> None:
    built = library(ANY_BUILD)
    every = np.arange(1 << 16, dtype=np.uint16)
    found = np.array([built.float_of_half(int(x)) for x in every], np.float32)
    np.testing.assert_array_equal(found, every.view(np.float16).astype(np.float32))
    rng = np.random.default_rng(0)
    exponents = rng.integers(-30, 20, 4000).astype(np.float32)
    x = (rng.normal(size=4000) * np.exp2(exponents)).astype(np.float32)
    halves = np.arange(0, 0x7C00, 7, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:-1] + halves[1:]) / 2  # ties, mostly
    x = np.concatenate([x, between, -between, [65519, 65520, INF, -INF]]).astype(np.float32)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    found = np.array([built.half_of_float(float(v)) for v in x], np.uint16)
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(np.uint16(built.half_of_float(NAN)).view(np.float16))


def test_bfloat16_is_torchs() -> None:
    torch = pytest.importorskip("torch", reason="the yardstick is torch.bfloat16")
    built = library(ANY_BUILD)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 4000, dtype=np.uint64).astype(np.uint32)
    bits[:1000] = bits[:1000] & 0xFFFF0000 | 0x8000  # ties
    x = bits.view(np.float32)
    x = np.concatenate([x[np.isfinite(x)], [INF, -INF, 0, 3.4e38]]).astype(np.float32)
    expected = torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    found = np.array([built.bfloat16_of_float(float(v)) for v in x], np.uint16)
    np.testing.assert_array_equal(found, expected)
    assert math.isnan(built.float_of_bfloat16(built.bfloat16_of_float(NAN)))
    assert built.float_of_bfloat16(0x3F80) == 1.0


@pytest.mark.parametrize("name", ["SETTINGS", "COUNTERS", "TRACE", "BURST"])
def test_numpy_lays_structures_out_as_the_compiler_does(name: str) -> None:
    built = library(ANY_BUILD)
    dtype: np.dtype[Any] = getattr(layout, name)
    structure = name.capitalize()
    assert built.layout(structure.encode()) == dtype.itemsize
    assert dtype.fields is not None
    for member, (_, offset, *_) in dtype.fields.items():
        assert built.layout(f"{structure}.{member}".encode()) == offset, member
