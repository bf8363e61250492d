"""From a frame of any size to the square that the graphs take."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from edgewf.errors import EdgewfError
from edgewf.images import read_image
from edgewf.preprocessing import INTERPOLATIONS, Image, Preprocessing
from tests.tiny import PHOTOS


@pytest.fixture(scope="module")
def chelsea() -> Image:
    return read_image(PHOTOS / "chelsea.png")  # 300 x 451


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    image_size=st.integers(1, 40),
    margin=st.integers(0, 8),
    interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
)
@settings(max_examples=80, deadline=None)
def test_any_frame_becomes_the_square(
    height: int, width: int, image_size: int, margin: int, interpolation: str
) -> None:
    preprocess = Preprocessing(image_size, image_size + margin, interpolation)
    frame = np.full((height, width, 3), (10, 20, 250), np.uint8)
    crop = preprocess(frame)
    assert crop.shape == (image_size, image_size, 3)
    assert crop.dtype == np.uint8
    assert crop.flags.c_contiguous
    # A frame of one colour keeps it, and its channels their order.
    assert (crop == (10, 20, 250)).all()


def test_a_frame_of_the_right_size_passes_unchanged(chelsea: Image) -> None:
    square = chelsea[:224, :224]
    before = square.copy()
    crop = Preprocessing(224, 224)(square)
    np.testing.assert_array_equal(crop, square)
    crop[:] = 0  # a copy: the frame may be the camera's own buffer
    np.testing.assert_array_equal(square, before)


@pytest.mark.parametrize("turned", [False, True])
def test_crops_the_centre(chelsea: Image, turned: bool) -> None:
    frame = chelsea.transpose(1, 0, 2) if turned else chelsea
    crop = Preprocessing(200, 300)(np.ascontiguousarray(frame))
    expected = chelsea[50:250, 125:325]
    np.testing.assert_array_equal(crop, expected.transpose(1, 0, 2) if turned else expected)


def test_the_shorter_side_sets_the_scale(chelsea: Image) -> None:
    # A circle stays a circle, whichever side is the longer one.
    for height, width in ((240, 480), (480, 240)):
        frame = np.zeros((height, width, 3), np.uint8)
        cv2.circle(frame, (width // 2, height // 2), 80, (255, 255, 255), -1)
        crop = Preprocessing(120, 120)(frame)
        across, down = (crop[60, :, 0] > 127).sum(), (crop[:, 60, 0] > 127).sum()
        assert abs(int(across) - int(down)) <= 1
        assert abs(int(across) - 80) <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [60, 110, 150, 256, 420])
def test_close_to_pillow(chelsea: Image, interpolation: str, resize: int) -> None:
    found = Preprocessing(56, resize, interpolation)(chelsea)
    filters = {
        "bilinear": Pillow.Resampling.BILINEAR,
        "bicubic": Pillow.Resampling.BICUBIC,
    }
    size = (round(451 * resize / 300), resize)
    resized = np.asarray(Pillow.fromarray(chelsea).resize(size, filters[interpolation]), np.float64)
    top, left = (resize - 56) // 2, (size[0] - 56) // 2
    difference = np.abs(found - resized[top : top + 56, left : left + 56])
    assert difference.mean() < (2.5 if resize < 150 else 4)


def test_shrinking_far_averages_over_source_pixels() -> None:
    # Black and white squares of two pixels: picking pixels would give black, white or stripes.
    board = np.kron(np.indices((200, 200)).sum(axis=0) % 2, np.ones((2, 2)))
    frame = np.repeat((255 * board).astype(np.uint8)[:, :, None], 3, axis=2)
    crop = Preprocessing(40, 40)(frame).astype(int)
    assert abs(crop - 127).max() <= 6  # 12 or 13 of 25 squares are white


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EdgewfError, match="image size 224 does not fit a resized side of 200"):
        Preprocessing(224, 200)
    with pytest.raises(EdgewfError, match="at least 1 pixel"):
        Preprocessing(0, 200)
    with pytest.raises(EdgewfError, match=r"unknown interpolation 'cubic': use one of bilinear"):
        Preprocessing(224, 256, "cubic")


def test_comes_back_from_the_manifest() -> None:
    preprocess = Preprocessing(160, 184, "bicubic", (0.5, 0.4, 0.3), (0.1, 0.2, 0.25))
    written = json.loads(json.dumps(preprocess.to_json()))
    assert Preprocessing.from_json(written) == preprocess


def test_shrinking_averages_over_source_pixels() -> None:
    # 2-pixel stripes at two thirds of the size: sampling would keep their full contrast.
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    small = Preprocessing(64, 64)(stripes)
    expected = cv2.resize(stripes, (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(small, expected)
    assert np.ptp(small) < 255
