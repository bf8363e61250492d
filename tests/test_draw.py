"""Drawing one window out of a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewf.errors import EdgewfError
from edgewf.labels import Label
from edgewf.preprocessing import Image, Preprocessing
from edgewf.stream import Frame, Source, draw_window, open_source
from tests.tiny import CLASSES, SIDE, crops, write_class_folders

PREPROCESS = Preprocessing(SIDE, SIDE)


class Numbered(Source):
    """Frame i is one pixel of value i; endless where no length is given."""

    def __init__(self, length: int | None, labels: list[int | None] | None = None) -> None:
        self.uri, self.live, self.frames_total = "numbered", length is None, length
        self._labels = labels
        self.closed = False

    def __iter__(self) -> Iterator[Frame]:
        for i in count() if self.frames_total is None else range(self.frames_total):
            label = None if self._labels is None else self._labels[i]
            yield Frame(np.full((1, 1, 3), i, np.uint8), i, 0.0, label)

    def close(self) -> None:
        self.closed = True


def same(frame: Image) -> Image:
    return frame


def numbers(images: Image) -> list[int]:
    return [int(x) for x in images[:, 0, 0, 0]]


def test_draws_distinct_frames_and_says_from_how_many() -> None:
    source = Numbered(100)
    window, seen = draw_window(source, same, 30, seed=3)
    assert seen == 100
    assert window.images.shape == (30, 1, 1, 3)
    assert window.images.dtype == np.uint8
    assert len(set(numbers(window.images))) == 30
    assert window.labels is None
    assert source.closed


def test_a_recording_of_the_windows_size_is_taken_whole_and_mixed() -> None:
    window, _ = draw_window(Numbered(50), same, 50, seed=0)
    assert sorted(numbers(window.images)) == list(range(50))
    assert numbers(window.images) != list(range(50))


def test_same_seed_same_window_other_seed_other_window() -> None:
    first, again, other = (
        draw_window(Numbered(100), same, 20, seed)[0].images for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert set(numbers(first)) != set(numbers(other))


def test_every_frame_is_as_likely_and_in_every_place() -> None:
    frames, size, draws = 8, 3, 1600
    drawn: Counter[int] = Counter()
    first: Counter[int] = Counter()
    for seed in range(draws):
        window = numbers(draw_window(Numbered(frames), same, size, seed)[0].images)
        drawn.update(window)
        first[window[0]] += 1
    # Five standard deviations of a binomial count, at fixed seeds.
    for counts, p in ((drawn, size / frames), (first, 1 / frames)):
        slack = 5 * (draws * p * (1 - p)) ** 0.5
        for i in range(frames):
            assert abs(counts[i] - draws * p) < slack


def test_crops_only_the_frames_it_takes() -> None:
    taken = 0

    def counted(frame: Image) -> Image:
        nonlocal taken
        taken += 1
        return frame

    draw_window(Numbered(250), counted, 5, seed=0)
    # Algorithm R takes 5 (1 + 1/6 + ... + 1/250) = 24 frames on average.
    assert taken < 60


def test_labels_stay_with_their_frames() -> None:
    labels: list[int | None] = [i % 7 for i in range(60)]
    window, _ = draw_window(Numbered(60, labels), same, 25, seed=1)
    assert window.labels is not None
    assert window.labels.dtype == np.int64
    assert window.labels.tolist() == [i % 7 for i in numbers(window.images)]


def test_one_frame_without_a_label_leaves_no_labels() -> None:
    labels: list[int | None] = [1] * 10
    labels[4] = None
    assert draw_window(Numbered(10, labels), same, 10, seed=1)[0].labels is None
    assert draw_window(Numbered(10, [1] * 10), same, 10, seed=1)[0].labels is not None


def test_too_few_frames_are_refused_with_both_numbers() -> None:
    source = Numbered(9)
    with pytest.raises(EdgewfError, match="numbered has 9 frames, an estimate takes 10"):
        draw_window(source, same, 10, seed=0)
    assert source.closed


def test_a_live_source_is_refused_unread() -> None:
    with pytest.raises(EdgewfError, match="never ends: watch it with `edgewf monitor`"):
        draw_window(Numbered(None), same, 10, seed=0)


def test_photographs_in_class_folders(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path, count=5, seed=0)
    images, labels = crops(5, seed=0)
    source = open_source(str(folder), labels=[Label(name) for name in CLASSES])
    window, seen = draw_window(source, PREPROCESS, 20, seed=0)
    assert seen == 30
    assert window.labels is not None
    known = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    assert [known[image.tobytes()] for image in window.images] == window.labels.tolist()
    assert len(set(window.labels.tolist())) > 3


def test_a_video(tmp_path: Path) -> None:
    path = tmp_path / "pan.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for i in range(12):
        writer.write(np.full((48, 64, 3), 20 * i, np.uint8))
    writer.release()
    window, seen = draw_window(open_source(str(path)), PREPROCESS, 6, seed=0)
    assert seen == 12
    assert window.images.shape == (6, SIDE, SIDE, 3)
    shades = {round(float(image.mean()) / 20) for image in window.images}
    assert len(shades) == 6
