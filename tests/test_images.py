"""Reading photographs, and finding their classes by folder name."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewf.errors import EdgewfError
from edgewf.images import image_files, labelled_images, read_image
from edgewf.labels import Label
from edgewf.preprocessing import Image

PHOTOS = Path(skimage.__file__).parent / "data"
IMAGENET = [
    Label("tench", "n01440764"),
    Label("great_white_shark", "n01484850"),
    Label("crane", "n02012849"),
    Label("crane", "n03126707"),
]


def chelsea() -> Image:
    return np.asarray(skimage.io.imread(PHOTOS / "chelsea.png"), np.uint8)


def encoded(suffix: str) -> bytes:
    ok, data = cv2.imencode(suffix, cv2.cvtColor(chelsea(), cv2.COLOR_RGB2BGR))
    assert ok
    return data.tobytes()


def test_reads_rgb() -> None:
    np.testing.assert_array_equal(read_image(PHOTOS / "chelsea.png"), chelsea())


def test_grey_sixteen_bit_and_alpha_become_rgb(tmp_path: Path) -> None:
    grey = read_image(PHOTOS / "camera.png")
    assert grey.shape == (512, 512, 3)
    assert (grey == grey[:, :, :1]).all()

    cv2.imwrite(str(tmp_path / "deep.png"), chelsea()[:, :, ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), chelsea())

    alpha = np.full((*chelsea().shape[:2], 1), 7, np.uint8)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([chelsea()[:, :, ::-1], alpha]))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), chelsea())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str) -> None:
    data = encoded(suffix)
    path = tmp_path / f"cat{suffix}"
    path.write_bytes(data)
    assert read_image(path).shape == (300, 451, 3)
    for share in (0.2, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(EdgewfError, match="cat"):
            read_image(path)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_a_jpeg_cut_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    data = encoded(".jpg")
    path = tmp_path / "cat.jpg"
    path.write_bytes(data[: int((len(data) - 1) * share)])
    with pytest.raises(EdgewfError, match=r"cat\.jpg"):
        read_image(path)


def test_the_end_of_an_exif_thumbnail_is_not_the_end_of_the_jpeg(tmp_path: Path) -> None:
    data, thumbnail = encoded(".jpg"), encoded(".jpg")[-4000:]
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path = tmp_path / "cat.jpg"
    path.write_bytes(data[:2] + segment + data[2:])
    assert read_image(path).shape == (300, 451, 3)
    path.write_bytes(data[:2] + segment + data[2:-5000])
    with pytest.raises(EdgewfError, match="cut short"):
        read_image(path)


def test_bytes_after_the_end_are_no_fault(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"cat{suffix}"
        path.write_bytes(encoded(suffix) + b"maker's note")
        assert read_image(path).shape == (300, 451, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    with pytest.raises(EdgewfError, match=r"notes\.jpg"):
        read_image(path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgewfError, match=r"nowhere\.png: No such file"):
        read_image(tmp_path / "nowhere.png")


def folder_of(tmp_path: Path, *paths: str) -> Path:
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTOS / "coffee.png", tmp_path / path)
    return tmp_path


def test_lists_images_sorted_and_recursive(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "b/2.PNG", "b/10.png", "a.jpg", "b/c/1.png", ".cache/x.png")
    (folder / "classes.txt").write_text("tench")
    (folder / "._a.jpg").write_text("left by a file manager")
    assert [p.relative_to(folder).as_posix() for p in image_files(folder)] == [
        "a.jpg",
        "b/10.png",
        "b/2.PNG",
        "b/c/1.png",
    ]


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EdgewfError, match="no images in"):
        image_files(tmp_path)
    with pytest.raises(EdgewfError, match="does not exist"):
        image_files(tmp_path / "nowhere")
    with pytest.raises(EdgewfError, match="no labelled images"):
        labelled_images(folder_of(tmp_path, "loose.png"), IMAGENET)


def test_folders_are_matched_by_id_index_and_name(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        "n01440764/b.png",
        "n01440764/a.png",
        "3/a.png",
        "Great White-Shark/a.png",
        "TENCH/a.png",
    )
    (folder / "classes.txt").write_text("n01440764\ttench\n")
    found = [(p.relative_to(folder).as_posix(), c) for p, c in labelled_images(folder, IMAGENET)]
    assert found == [
        ("3/a.png", 3),
        ("Great White-Shark/a.png", 1),
        ("TENCH/a.png", 0),
        ("n01440764/a.png", 0),
        ("n01440764/b.png", 0),
    ]


def test_an_id_goes_before_an_index_and_a_name(tmp_path: Path) -> None:
    labels = [Label("7", "1"), Label("seven", "0")]
    folder = folder_of(tmp_path, "0/a.png", "1/a.png", "7/a.png")
    assert [c for _, c in labelled_images(folder, labels)] == [1, 0, 0]


def test_folders_that_match_nothing_are_listed(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, "tench/a.png", "4/a.png", *(f"bogus{i:02d}/a.png" for i in range(11))
    )
    with pytest.raises(EdgewfError) as caught:
        labelled_images(folder, IMAGENET)
    message = str(caught.value)
    assert "4, bogus00" in message
    assert "bogus08 and 2 more" in message
    assert "bogus09" not in message
    assert "n03126707" in message
    assert "index (0 to 3)" in message


def test_a_name_of_two_classes_is_an_error_with_their_indices(tmp_path: Path) -> None:
    with pytest.raises(EdgewfError, match=r"classes 2, 3 are all called 'crane'"):
        labelled_images(folder_of(tmp_path, "Crane/a.png"), IMAGENET)


def test_a_number_that_is_index_and_name_of_two_classes_is_an_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "1/a.png")
    with pytest.raises(EdgewfError, match="index of class 1"):
        labelled_images(folder, [Label("1"), Label("0")])
    assert [c for _, c in labelled_images(folder, [Label("0"), Label("1")])] == [1]


@given(st.text("abc", min_size=1, max_size=4), st.text(" _-", min_size=1, max_size=2))
@settings(max_examples=20, deadline=None)
def test_spelling_of_a_name_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, word: str, gap: str
) -> None:
    folder = folder_of(tmp_path_factory.mktemp("data"), f"{word.upper()}{gap}x/a.png")
    assert [c for _, c in labelled_images(folder, [Label("y"), Label(f"{word} X")])] == [1]
