"""Which frames of a stream make a window."""

from __future__ import annotations

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
    window = sampler.take()
    np.testing.assert_array_equal(window.images, np.stack(CROPS[:3]))
    assert window.images.dtype == np.uint8
    assert window.labels is not None
    assert window.labels.dtype == np.int64
    assert window.labels.tolist() == [0, 10, 20]


def test_labels_need_every_frame() -> None:
    sampler = WindowSampler(2)
    sampler.offer(CROPS[0], 1)
    sampler.offer(CROPS[1])
    assert sampler.take().labels is None


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
    ("size", "stride", "difference"), [(0, 1, 2.0), (1, 0, 2.0), (1, 1, -1.0), (1, 1, float("nan"))]
)
def test_impossible_settings_are_refused(size: int, stride: int, difference: float) -> None:
    with pytest.raises(EdgewfError, match="must be at least"):
        WindowSampler(size, stride, difference)


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
                labels = sampler.take().labels
                assert labels is not None
                taken.append(labels.tolist())
        return taken, sampler

    taken, sampler = windows()
    assert taken == windows()[0]
    assert all(len(set(window)) == size for window in taken)
    assert sampler.seen == len(order)
    looked_at = len(order[::stride])
    assert sampler.dropped + size * len(taken) + sampler.filled == looked_at
