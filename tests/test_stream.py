"""Sources that need no camera: URIs, files, folders and the demo film."""

from __future__ import annotations

import shutil
import time
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from edgewf.errors import EdgewfError
from edgewf.images import read_image
from edgewf.labels import Label
from edgewf.stream import Source, WindowSampler, open_source
from edgewf.stream.demo import HEIGHT, WIDTH, DemoSource, degrade, severity

PHOTOS = Path(skimage.__file__).parent / "data"
NAMES = ["astronaut", "camera", "chelsea", "coffee", "coins", "moon"]
LABELS = [Label(name, f"id{i}") for i, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of a pan over the astronaut."""
    path = tmp_path_factory.mktemp("video") / "pan 1?.avi"
    photo = cv2.cvtColor(read_image(PHOTOS / "astronaut.png"), cv2.COLOR_RGB2BGR)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (320, 240))
    for i in range(10):
        writer.write(photo[100:340, 10 * i : 10 * i + 320])
    writer.release()
    return path


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).mkdir()
        shutil.copy(PHOTOS / f"{name}.png", tmp_path / name)
    return tmp_path


def order(source: Source) -> list[int]:
    """The photographs of a folder source, by brightness."""
    means = [read_image(PHOTOS / f"{name}.png").mean() for name in NAMES]
    return [int(np.argmin(np.abs(np.array(means) - f.image.mean()))) for f in source]


def test_a_video_gives_every_frame_in_order(video: Path) -> None:
    photo = read_image(PHOTOS / "astronaut.png").astype(float)
    before = time.time()
    with open_source(str(video)) as source:
        assert (source.live, source.frames_total, source.uri) == (False, 10, str(video))
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(10))
    for i, frame in enumerate(frames):
        assert frame.image.dtype == np.uint8
        expected = photo[100:340, 10 * i : 10 * i + 320]
        assert np.abs(frame.image - expected).mean() < 6.0  # the loss of JPEG; a swap gives 60
        assert before <= frame.time <= time.time()
        assert frame.label is None


def test_a_file_uri_is_decoded(video: Path) -> None:
    uri = video.as_uri()
    assert "%20" in uri
    with open_source(uri) as source:
        assert len(list(source)) == 10


def test_a_damaged_video_is_refused(video: Path, tmp_path: Path) -> None:
    for content in (b"", b"words", video.read_bytes()[:300]):
        path = tmp_path / "broken.avi"
        path.write_bytes(content)
        with pytest.raises(EdgewfError, match=r"broken\.avi cannot be read as a video"):
            open_source(str(path))


def test_a_flat_folder_is_read_by_name(tmp_path: Path) -> None:
    for i, name in enumerate(NAMES):
        shutil.copy(PHOTOS / f"{name}.png", tmp_path / f"{i}.png")
    with open_source(str(tmp_path), seed=3) as source:
        assert (source.live, source.frames_total) == (False, len(NAMES))
        assert order(source) == list(range(len(NAMES)))


def test_sub_folders_are_shuffled_alike_with_and_without_labels(class_folders: Path) -> None:
    orders = [order(open_source(str(class_folders), seed=seed)) for seed in (0, 0, 1)]
    assert sorted(orders[0]) == list(range(len(NAMES)))
    assert orders[0] == orders[1] != orders[2]
    with open_source(str(class_folders), labels=LABELS, seed=0) as source:
        assert [frame.label for frame in source] == orders[0] == order(source)


def test_an_image_that_cannot_be_read_stops_the_stream(tmp_path: Path) -> None:
    shutil.copy(PHOTOS / "coffee.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((PHOTOS / "coffee.png").read_bytes()[:5000])
    frames = iter(open_source(str(tmp_path)))
    assert next(frames).index == 0
    with pytest.raises(EdgewfError, match=r"b\.png is cut short"):
        next(frames)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("/nowhere/film.mp4", "no such file or folder: /nowhere/film.mp4"),
        ("ftp://host/film.mp4", "unknown source ftp://host/film.mp4: expected .*rtsp://"),
        ("file://film.mp4", "three slashes"),
        (str(PHOTOS / "coffee.png"), "single image"),
        ("rtsp:///stream", "names no host"),
        ("rtsp://host:port/stream", "not an address"),
        ("csi://front", "number of the camera"),
        ("csi://0?colour=red", "unknown option 'colour'; use width, height, fps"),
        ("csi://0?fps=0", "fps is '0'; it must be a whole number from 1"),
        ("v4l2:///dev/video0?width=wide", "width is 'wide'"),
        ("demo?frames=0", "frames is '0'"),
        ("demo?frames=1.5", "whole number"),
        ("demo?speed=2", "unknown option 'speed'; use frames, seed"),
    ],
)
def test_bad_uris_are_explained(uri: str, message: str) -> None:
    with pytest.raises(EdgewfError, match=message):
        open_source(uri)


@pytest.mark.parametrize("uri", ["demo", "rtsp://host/stream", "/dev/video0"])
def test_only_folders_have_true_labels(uri: str) -> None:
    with pytest.raises(EdgewfError, match="no true labels"):
        open_source(uri, labels=LABELS)


def test_the_demo_is_repeatable() -> None:
    with open_source("demo?frames=40&seed=5") as source:
        assert (source.live, source.frames_total, source.uri) == (
            False,
            40,
            "demo?frames=40&seed=5",
        )
        first = list(source)
    again = list(open_source("demo?frames=40", seed=5))
    other = list(open_source("demo?frames=40&seed=6"))
    assert [frame.index for frame in first] == list(range(40))
    assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
    assert not any((a.image == b.image).all() for a, b in zip(first, other, strict=True))
    assert all(f.image.shape == (HEIGHT, WIDTH, 3) and f.image.dtype == np.uint8 for f in first)


def test_the_demo_goes_from_clean_to_bad_and_back() -> None:
    positions = np.linspace(0.0, 1.0, 1001)
    levels = np.array([severity(p) for p in positions])
    assert (levels[positions <= 0.3] == 0).all()
    assert (levels[positions >= 0.75] == 0).all()
    assert (levels[(positions >= 0.5) & (positions <= 0.6)] == 1).all()
    assert np.abs(np.diff(levels)).max() < 0.01

    frames = list(DemoSource(frames=400))
    light = np.array([frame.image.mean() for frame in frames])
    assert light[200:240].mean() < 0.5 * light[:120].mean()
    assert light[300:].mean() > 0.8 * light[:120].mean()


def test_degrading_is_gradual_and_starts_from_nothing() -> None:
    photo = read_image(PHOTOS / "coffee.png")[:240, :320]
    loss = [
        cv2.PSNR(photo, degrade(photo, level, np.random.default_rng(0)))
        for level in (0.001, 0.1, 0.3, 0.6, 1.0)
    ]
    assert degrade(photo, 0.0, np.random.default_rng(0)) is photo
    assert loss[0] > 45.0
    assert loss == sorted(loss, reverse=True)


def test_the_demo_shows_most_photographs_in_two_seconds() -> None:
    def scenes(frames: list[np.ndarray]) -> int:
        """Count frames unlike all before them, by colour alone."""
        histograms: list[np.ndarray] = []
        for image in frames:
            h = cv2.calcHist([image], [0, 1, 2], None, [6, 6, 6], [0, 256] * 3)
            if all(cv2.compareHist(h, g, cv2.HISTCMP_CORREL) < 0.8 for g in histograms):
                histograms.append(h)
        return len(histograms)

    assert scenes([f.image for f in islice(DemoSource(frames=2500), 60)]) >= 8


def test_few_clean_demo_frames_are_near_duplicates() -> None:
    sampler = WindowSampler(1000)
    for frame in islice(DemoSource(frames=2500), 200):
        sampler.offer(frame.image)
    assert sampler.filled > 180


def test_the_demo_without_scikit_image_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EdgewfError, match=r"pip install edgewf\[demo\]"):
        open_source("demo")
