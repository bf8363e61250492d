"""A real RTSP server behind a network that is cut, stalls and does damage."""

from __future__ import annotations

import functools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from benchmarks.soak import network as soak
from benchmarks.soak.network import Network
from edgewf.images import read_image
from edgewf.stream import Frame
from edgewf.stream.camera import CameraSource, Patience, network_camera
from tests.broker import free_port, reachable, until

PHOTO = read_image(Path(skimage.__file__).parent / "data" / "coffee.png")[:240, :320]
SERVER = Path(soak.__file__).parent / "server.py"
PYTHON = "/usr/bin/python3"
FPS = 25
LONG = 60.0  # never reached unless something is broken
PATIENCE = Patience(first=LONG, stall=2.0, restarts=100, backoff=0.05, longest=0.1)


@functools.cache
def missing() -> str | None:
    """Return why there can be no server, None if there can."""
    wanted = "x264enc", "jpegdec", "multifilesrc", "rtph264pay"
    check = (
        "import gi; gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None)\n"
        f"for name in {wanted}: assert Gst.ElementFactory.find(name), 'no element ' + name"
    )
    try:
        done = subprocess.run([PYTHON, "-c", check], capture_output=True, text=True, timeout=LONG)
    except OSError as error:
        return str(error)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


class Camera:
    """A server that can be switched off and on again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self.on()

    def on(self) -> None:
        command = [PYTHON, str(SERVER), str(self.port), str(self._folder), str(FPS)]
        self._process = subprocess.Popen(command)
        until(lambda: reachable(self.port), LONG)

    def off(self) -> None:
        self._process.kill()
        self._process.wait()


class Reader:
    """Takes frames as they come, in a thread."""

    def __init__(self, source: CameraSource) -> None:
        self.source = source
        self.frames = 0
        self.newest: Frame | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for frame in self.source:
            self.newest = frame
            self.frames += 1

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONG
        while not holds():
            assert self._thread.is_alive()
            assert time.monotonic() < deadline, self.source.health()
            time.sleep(0.01)

    def until_more(self, frames: int) -> None:
        wanted = self.frames + frames
        self.until(lambda: self.frames >= wanted)

    def close(self) -> None:
        self.source.close()
        self._thread.join(LONG)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    why = missing()
    if why is not None:
        pytest.skip(f"no GStreamer RTSP server in {PYTHON}, see benchmarks/soak/server.py: {why}")
    folder = tmp_path_factory.mktemp("film")
    for i in range(FPS):
        shot = np.roll(cv2.cvtColor(PHOTO, cv2.COLOR_RGB2BGR), 4 * i, axis=1)
        assert cv2.imwrite(str(folder / f"{i:05}.jpg"), shot)
    camera = Camera(folder)
    yield camera
    camera.off()


@pytest.fixture
def network(camera: Camera) -> Iterator[Network]:
    network = Network(camera.port)
    yield network
    network.close()


@pytest.fixture
def reader(network: Network, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    # OpenCV asks for UDP by default where the server offers it; damage is done to TCP.
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    reader = Reader(network_camera(f"rtsp://127.0.0.1:{network.port}/camera", patience=PATIENCE))
    reader.until_more(5)
    yield reader
    reader.close()


def test_the_picture_arrives(reader: Reader) -> None:
    health = reader.source.health()
    assert (health.state, health.reconnects, health.message) == ("live", 0, "")
    assert reader.newest is not None
    image = reader.newest.image
    assert image.shape == PHOTO.shape
    difference = min(
        float(np.abs(image.astype(float) - np.roll(PHOTO, 4 * i, axis=1)).mean())
        for i in range(FPS)
    )
    assert difference < 12.0


def test_a_network_that_is_cut_is_survived(reader: Reader, network: Network) -> None:
    network.cut = True
    reader.until(lambda: reader.source.health().state == "reconnecting")
    reader.until(lambda: reader.source.health().reconnects >= 2)
    assert reader.source.health().message
    network.cut = False
    reader.until_more(5)
    assert (reader.source.health().state, reader.source.health().message) == ("live", "")


def test_a_network_that_stalls_is_noticed_and_survived(reader: Reader, network: Network) -> None:
    network.stalled = True
    states = set()

    def reconnecting() -> bool:
        states.add(reader.source.health().state)
        return "reconnecting" in states

    reader.until(reconnecting)
    assert "stalled" in states
    assert "no frame for 2 s" in reader.source.health().message
    network.stalled = False
    reader.until_more(5)
    assert reader.source.health().state == "live"


def test_damaged_packets_are_counted_and_frames_go_on(reader: Reader, network: Network) -> None:
    assert reader.source.health().decode_errors == 0
    network.damage = 0.3
    reader.until(lambda: reader.source.health().decode_errors > 3)
    reader.until_more(5)
    assert reader.newest is not None
    assert reader.newest.image.shape == PHOTO.shape
    network.damage = 0.0
    reader.until_more(FPS)
    assert reader.source.health().state == "live"


def test_a_camera_that_is_switched_off_and_on_comes_back(reader: Reader, camera: Camera) -> None:
    camera.off()
    reader.until(lambda: reader.source.health().reconnects >= 1)
    camera.on()
    reader.until_more(5)
    assert reader.source.health().state == "live"
