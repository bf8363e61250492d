"""Which frames of a stream make a window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewf.errors import EdgewfError
from edgewf.images import read_image
from edgewf.preprocessing import Image, Preprocessing
from edgewf.stream import WindowSampler
from edgewf.stream.sampler import Stratum, Taken, stratum_weights

PHOTOS = Path(skimage.__file__).parent / "data"
NAMES = ["astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "ihc"]
CROP = Preprocessing(image_size=96, resize=96)
CROPS = [CROP(read_image(PHOTOS / f"{name}.png")) for name in NAMES]


def noisy(crop: Image, rng: np.random.Generator, deviation: float = 10.0) -> Image:
    noise = rng.normal(0.0, deviation, crop.shape)
    return np.asarray(np.clip(np.rint(crop + noise), 0, 255), np.uint8)


def test_a_static_camera_gives_one_frame() -> None:
    rng = np.random.default_rng(0)
    for crop in CROPS:
        sampler = WindowSampler(8)
        kept = [sampler.offer(noisy(crop, rng)) for _ in range(8)]
        assert kept == [True] + [False] * 7
        assert (sampler.seen, sampler.dropped, sampler.filled) == (8, 7, 1)


def test_different_photographs_are_kept_even_when_dark() -> None:
    for light in (1.0, 0.3):
        sampler = WindowSampler(len(CROPS))
        assert all(sampler.offer((crop * light).astype(np.uint8)) for crop in CROPS)
        assert sampler.full


def test_a_scene_that_alternates_is_kept_once() -> None:
    sampler = WindowSampler(8)
    for _ in range(5):
        sampler.offer(CROPS[0])
        sampler.offer(CROPS[1])
    assert (sampler.filled, sampler.dropped) == (2, 8)


def test_a_new_window_may_show_an_old_scene() -> None:
    sampler = WindowSampler(1)
    assert sampler.offer(CROPS[0])
    sampler.take()
    assert sampler.filled == 0
    assert sampler.offer(CROPS[0])


def test_the_window_holds_copies_in_order_with_labels() -> None:
    sampler = WindowSampler(3)
    frames = [crop.copy() for crop in CROPS[:3]]
    for label, frame in enumerate(frames):
        sampler.offer(frame, label * 10)
        frame[:] = 0
    window = sampler.take().window()
    np.testing.assert_array_equal(window.images, np.stack(CROPS[:3]))
    assert window.images.dtype == np.uint8
    assert window.labels is not None
    assert window.labels.dtype == np.int64
    assert window.labels.tolist() == [0, 10, 20]


def test_labels_need_every_frame() -> None:
    sampler = WindowSampler(2)
    sampler.offer(CROPS[0], 1)
    sampler.offer(CROPS[1])
    assert sampler.take().window().labels is None


def test_no_difference_asked_keeps_everything() -> None:
    sampler = WindowSampler(3, min_difference=0.0)
    assert all(sampler.offer(CROPS[0]) for _ in range(3))


def test_a_full_or_empty_window_asks_to_be_handled() -> None:
    sampler = WindowSampler(1)
    with pytest.raises(RuntimeError, match="empty"):
        sampler.take()
    sampler.offer(CROPS[0])
    with pytest.raises(RuntimeError, match="full"):
        sampler.offer(CROPS[1])


@pytest.mark.parametrize(
    ("size", "stride", "difference", "past"),
    [(0, 1, 2.0, 8), (1, 0, 2.0, 8), (1, 1, -1.0, 8), (1, 1, float("nan"), 8), (1, 1, 2.0, 0)],
)
def test_impossible_settings_are_refused(
    size: int, stride: int, difference: float, past: int
) -> None:
    with pytest.raises(EdgewfError, match="must be at least"):
        WindowSampler(size, stride, difference, past=past)


@settings(max_examples=50, deadline=None)
@given(
    order=st.lists(st.integers(0, len(CROPS) - 1), max_size=40),
    size=st.integers(1, 6),
    stride=st.integers(1, 3),
)
def test_windows_are_full_distinct_and_repeatable(order: list[int], size: int, stride: int) -> None:
    def windows() -> tuple[list[list[int]], WindowSampler]:
        sampler, taken = WindowSampler(size, stride), []
        for i in order:
            sampler.offer(CROPS[i], i)
            if sampler.full:
                labels = sampler.take().window().labels
                assert labels is not None
                taken.append(labels.tolist())
        return taken, sampler

    taken, sampler = windows()
    assert taken == windows()[0]
    assert all(len(set(window)) == size for window in taken)
    assert sampler.seen == len(order)
    looked_at = len(order[::stride])
    assert sampler.dropped + size * len(taken) + sampler.filled == looked_at


# Frames that are no near-duplicates of each other, whose label is their number.
def picture(number: int) -> Image:
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)


PICTURES = [picture(number) for number in range(600)]


def taken_from(
    predictions: Sequence[int | None], size: int, past: int, seed: int = 0
) -> list[tuple[int, Taken]]:
    """Offer pictures with these predictions; return each window and what was seen before it."""
    sampler = WindowSampler(size, past=past, seed=seed)
    found = []
    for number, prediction in enumerate(predictions):
        assert sampler.offer(PICTURES[number], number, prediction)
        if sampler.full:
            found.append((number + 1, sampler.take()))
    return found


def numbers(taken: Taken) -> list[int]:
    labels = taken.window().labels
    assert labels is not None
    return [int(label) for label in labels]


RUNS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), min_size=1, max_size=10)


@settings(max_examples=60, deadline=None)
@given(runs=RUNS, size=st.integers(2, 12), past=st.integers(1, 6), seed=st.integers(0, 3))
def test_windows_are_young_weighted_and_repeatable(
    runs: list[tuple[int, int]], size: int, past: int, seed: int
) -> None:
    predictions = [name for name, length in runs for _ in range(length)]
    found = taken_from(predictions, size, past, seed)
    again = taken_from(predictions, size, past, seed)
    assert len(found) == len(predictions) // size
    for (seen, taken), (_, same) in zip(found, again, strict=True):
        chosen = numbers(taken)
        assert chosen == numbers(same)
        assert len(chosen) == size
        assert chosen == sorted(set(chosen))
        # Nothing is older than the past, and the window says what it stands for.
        span = taken.span
        assert span in (size, min(seen, past * size))
        assert seen - span <= chosen[0]
        assert chosen[-1] < seen
        if span == size:
            assert chosen == list(range(seen - size, seen))
        # Counted with their weights, the classes have the shares that they have in the past.
        window = taken.window()
        assert window.weights is not None
        assert window.weights.mean() == pytest.approx(1)
        stood_for = Counter(predictions[seen - span : seen])
        here = {predictions[i] for i in chosen}
        total = sum(stood_for[name] for name in here)
        for name in here:
            of_it = [
                w for w, i in zip(window.weights, chosen, strict=True) if predictions[i] == name
            ]
            assert sum(of_it) / size == pytest.approx(stood_for[name] / total)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=6),
    size=st.integers(6, 24),
    seed=st.integers(0, 3),
)
def test_classes_that_come_one_after_the_other_are_balanced(
    lengths: list[int], size: int, seed: int
) -> None:
    """No class has more of the memory than its fair part, while others were to be had."""
    sampler = WindowSampler(size, past=1000, seed=seed)
    predictions = [name for name, length in enumerate(lengths) for _ in range(length)]
    for number, prediction in enumerate(predictions):
        sampler.offer(PICTURES[number], number, prediction)
        if sampler.full:
            sampler.take()
    memory = Counter(x.stratum[1] for x in sampler._memory)
    assert memory.total() == min(size, len(predictions))
    most = max(memory.values())
    for name, length in enumerate(lengths):
        # One less than the largest at most, or all there were.
        assert memory[name] >= min(length, most - 1)


def test_a_class_is_a_random_sample_of_its_frames() -> None:
    """Of 200 frames each of the 40 kept is as likely as another: by thirds, over 60 seeds."""
    thirds: Counter[int] = Counter()
    for seed in range(60):
        sampler = WindowSampler(40, past=1000, seed=seed)
        for number in range(200):
            sampler.offer(PICTURES[number], number, 0)
            if sampler.full:
                sampler.take()
        thirds.update((x.number - 1) * 3 // 200 for x in sampler._memory)
    expected = 60 * 40 / 3
    assert all(abs(count - expected) < 5 * expected**0.5 for count in thirds.values()), thirds


def test_a_mixed_stream_makes_windows_of_the_last_frames() -> None:
    rng = np.random.default_rng(0)
    for seen, taken in taken_from(rng.integers(0, 5, 600).tolist(), 50, 8):
        assert numbers(taken) == list(range(seen - 50, seen))


def test_without_predictions_windows_are_of_the_last_frames() -> None:
    for seen, taken in taken_from([None] * 600, 50, 8):
        assert numbers(taken) == list(range(seen - 50, seen))


def test_one_class_after_the_other_makes_windows_of_all() -> None:
    """With a past of one window, which leaves the balance out, each window is of one class."""
    predictions = [number // 50 % 4 for number in range(600)]
    *_, (_, last) = taken_from(predictions, 50, 1)
    assert {predictions[i] for i in numbers(last)} == {3}
    *_, (_, balanced) = taken_from(predictions, 50, 8)
    counts = Counter(predictions[i] for i in numbers(balanced))
    assert sorted(counts) == [0, 1, 2, 3]
    assert max(counts.values()) - min(counts.values()) <= 2


def test_what_is_counted_with_weights_is_true_of_the_past() -> None:
    """A network that is wrong on half of what comes for long, and right on what comes for short.

    The stream is in order of class, so frames that it takes for another class are errors.
    """
    truth = np.tile(np.repeat(np.arange(4), (180, 60, 30, 30)), 2)
    weighted, plain = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        wrong = rng.random(600) < np.where(truth == 0, 0.5, 0.1)
        predicted = np.where(wrong, rng.integers(0, 4, 600), truth)
        right = predicted == truth
        for seen, taken in taken_from(predicted.tolist(), 60, 5, seed)[4:]:
            if taken.span == 300:
                chosen, share = right[numbers(taken)], right[seen - 300 : seen].mean()
                weighted.append(np.average(chosen, weights=taken.window().weights) - share)
                plain.append(chosen.mean() - share)
    assert abs(np.mean(weighted)) < 0.02
    assert abs(np.mean(plain)) > 0.03


def test_strata_share_their_counts() -> None:
    counts: Counter[Stratum] = Counter(
        {(0, 1): 30, (0, 2): 10, (1, 2): 20, (2, 2): 2, (3, 2): 90, (1, 3): 40}
    )
    strata: list[Stratum] = [(0, 1), (0, 1), (0, 2), (0, 2), (1, 2)]
    weights = stratum_weights(strata, counts)
    # Frames of class 2 that came in window 2 are counted with the few of window 0, those of window
    # 3 with the many of window 1; class 3 is not there.
    np.testing.assert_allclose(weights, np.array([15, 15, 6, 6, 110]) * 5 / 152)


def test_no_more_than_two_windows_of_frames_are_held() -> None:
    sampler = WindowSampler(20, past=50)
    for number in range(600):
        sampler.offer(PICTURES[number], number, number // 100)
        held = {id(x) for x in (*sampler._memory, *sampler._last)}
        assert len(held) <= 40
        assert len(sampler._strata) <= 1000
        if sampler.full:
            sampler.take()


def test_a_scene_that_comes_back_takes_its_old_place() -> None:
    """In the next window: the memory never holds two of it."""
    sampler = WindowSampler(3, past=10)
    for number in (0, 1, 2):
        sampler.offer(PICTURES[number], number, number)
    sampler.take()
    sampler.offer(PICTURES[1], 7, 1)
    assert sorted(x.label for x in sampler._memory if x.label is not None) == [0, 2, 7]


def test_what_is_forgotten_is_in_no_window() -> None:
    sampler = WindowSampler(4)
    for number in range(8):
        sampler.offer(PICTURES[number], number, number // 4)
        if sampler.full:
            assert not sampler.balanced
            sampler.take()
    assert sampler.balanced
    sampler.offer(PICTURES[8], 8, 4)
    sampler.forget()
    assert sampler.filled == 0
    assert not sampler.balanced
    for number in range(10, 14):
        sampler.offer(PICTURES[number], number, 0)
    assert numbers(sampler.take()) == [10, 11, 12, 13]
