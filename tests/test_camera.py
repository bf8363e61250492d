"""Live sources, with real child processes in place of cameras."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from edgewf.errors import EdgewfError
from edgewf.images import read_image
from edgewf.preprocessing import Image
from edgewf.stream import open_source
from edgewf.stream.camera import (
    CameraSource,
    Patience,
    csi_camera,
    network_camera,
    v4l2_camera,
)
from edgewf.stream.picture import PictureWatch
from edgewf.stream.process import FrameProcess

PHOTO = read_image(Path(skimage.__file__).parent / "data" / "coffee.png")[:240, :320]
LONG = 60.0  # never reached unless something is broken
IMPATIENT = Patience(first=LONG, stall=0.3, restarts=1, backoff=0.01)

# A camera that sends 8 by 6 frames whose pixels hold the number of the frame.
CAMERA = """
import os, signal, sys, time
if sys.argv[3] == "ignore":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
pipe = open(int(sys.argv[1]), "wb")
print("chatter on stdout", flush=True)
print("pid", os.getpid(), file=sys.stderr, flush=True)
for number in range(int(sys.argv[2])):
    pipe.write(bytes([number]) * 8 * 6 * 3)
    pipe.flush()
if sys.argv[3] != "exit":
    time.sleep(600)
"""


def command(frames: int, then: str) -> list[str]:
    return [sys.executable, "-c", CAMERA, "{fd}", str(frames), then]


def camera(frames: int, then: str, patience: Patience) -> CameraSource:
    start = partial(FrameProcess, command(frames, then), shape=(6, 8, 3))
    return CameraSource("test", start, advice="check the cable", patience=patience)


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def wait_until_ended(process: FrameProcess) -> None:
    deadline = time.monotonic() + LONG
    while not process.ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_the_newest_frame_is_kept() -> None:
    process = FrameProcess(command(20, "exit"), shape=(6, 8, 3))
    wait_until_ended(process)
    taken = process.newest(LONG)
    assert taken is not None
    image, arrival = taken
    assert image.shape == (6, 8, 3)
    assert (image == 19).all()
    assert abs(time.time() - arrival) < LONG
    assert process.newest(LONG) is None
    assert "chatter on stdout" in process.stop()


def test_a_frame_cut_in_the_middle_is_not_shown() -> None:
    script = "import sys; open(int(sys.argv[1]), 'wb').write(bytes(8 * 6 * 3 - 1))"
    process = FrameProcess([sys.executable, "-c", script, "{fd}"], shape=(6, 8, 3))
    assert process.newest(LONG) is None
    assert process.ended
    process.stop()


def test_a_camera_that_ignores_everything_is_killed() -> None:
    source = camera(0, "ignore", Patience(first=3.0, restarts=0))
    with pytest.raises(EdgewfError) as caught:
        list(source)
    message = str(caught.value)
    assert "test: the camera failed once; check the cable" in message
    assert "no frame for 3 s" in message
    pid = int(message.partition("pid ")[2].split()[0])
    assert not alive(pid)


def test_a_camera_that_hangs_is_restarted_for_ever() -> None:
    """Twenty times as often as one that has never sent a frame."""
    with camera(1, "hang", replace(IMPATIENT, stall=0.05, longest=0.01)) as source:
        assert source.health().state == "starting"
        frames = iter(source)
        assert [next(frames).index for _ in range(40)] == list(range(40))
        health = source.health()
    assert (health.frames, health.dropped, health.reconnects) == (40, 0, 39)
    assert (health.state, health.message) == ("live", "")
    assert source.health().state == "ended"


def test_the_pause_between_restarts_grows_to_its_longest() -> None:
    patience = Patience(first=LONG, stall=LONG, restarts=0, backoff=0.1, longest=0.4)
    with camera(1, "exit", patience) as source:
        pauses: list[float] = []

        def wait(seconds: float) -> bool:
            pauses.append(seconds)
            return False

        source._closed.wait = wait  # type: ignore[method-assign,assignment]
        for _ in islice(source, 60):
            pass
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.4])
    assert set(pauses[3:]) == {0.4}


def test_health_tells_what_is_wrong(server: str) -> None:
    patience = Patience(first=LONG, stall=0.4, backoff=LONG, restarts=0)
    source = network_camera(f"http://{server}/cut", patience=patience)
    with source:
        frames = iter(source)
        for _ in range(3):
            next(frames)
        assert source.health().state == "live"
        reader = threading.Thread(target=lambda: list(frames))
        reader.start()
        states = set()
        while "reconnecting" not in states:
            states.add(source.health().state)
        health = source.health()
        assert (health.reconnects, health.message) == (1, "no frame for 0.4 s")
        assert health.last_frame is not None
        assert abs(health.last_frame - time.time()) < LONG
        assert "stalled" in states
        source.close()
        reader.join(LONG)


def test_damaged_pictures_are_counted(server: str) -> None:
    with network_camera(f"http://{server}/damaged") as source:
        for _ in source:
            if source.health().decode_errors > 3:
                break
        health = source.health()
    assert health.frames > 0


def test_a_camera_that_is_cut_comes_back(server: str) -> None:
    patience = Patience(first=LONG, stall=LONG, backoff=0.01, restarts=0)
    with network_camera(f"http://{server}/hangs-up", patience=patience) as source:
        frames = list(islice(source, 12))
        health = source.health()
    assert [frame.index for frame in frames] == list(range(12))
    assert health.reconnects >= 1


def test_a_network_camera_that_goes_silent_comes_back(server: str) -> None:
    """The connection stays open all the while."""
    patience = Patience(first=LONG, stall=0.4, backoff=0.01, restarts=0)
    with network_camera(f"http://{server}/cut", patience=patience) as source:
        frames = list(islice(source, 24))
        reconnects = source.health().reconnects
    assert [frame.index for frame in frames] == list(range(24))
    assert reconnects >= 2


def test_a_stream_that_turns_into_noise_is_opened_anew(server: str) -> None:
    """After some pictures come bytes that are no pictures, without an end."""
    patience = Patience(first=LONG, stall=0.5, backoff=0.01, restarts=0)
    with network_camera(f"http://{server}/noise", patience=patience) as source:
        frames = list(islice(source, 24))
        assert source.health().reconnects >= 1
    assert {frame.image.shape for frame in frames} == {PHOTO.shape}


def test_frozen_and_black_pictures_are_noticed() -> None:
    watch = PictureWatch()
    rng = np.random.default_rng(0)

    def shot(level: float, noise: float) -> Image:
        return np.clip(rng.normal(level, noise, (60, 80, 3)), 0, 255).astype(np.uint8)

    for second in range(100):  # a static scene, and the noise of a sensor
        watch.update(shot(90, 1.5), second)
        assert (watch.frozen, watch.black) == (False, False)
    still = shot(90, 1.5)
    found = []
    for second in range(100, 140):
        watch.update(still, second)
        found.append(watch.frozen)
    assert found == 30 * [False] + 10 * [True]
    watch.update(shot(90, 1.5), 140)
    assert not watch.frozen
    found = []
    for second in range(141, 160):  # a lens cap: almost black, with noise
        watch.update(shot(8, 2), second)
        found.append(watch.black)
    assert found == 10 * [False] + 9 * [True]
    watch.update(shot(60, 2), 160)
    assert not watch.black


def test_frames_go_on_across_restarts() -> None:
    steady = Patience(first=LONG, stall=LONG, restarts=1, backoff=0.0, steady=0.0)
    with camera(1, "exit", steady) as source:
        assert (source.live, source.frames_total) == (True, None)
        frames = list(islice(source, 4))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert all(a.time <= b.time for a, b in pairwise(frames))


def test_a_camera_without_frames_is_given_up_with_its_words() -> None:
    with pytest.raises(EdgewfError, match=r"failed 2 times in a row(.|\n)*chatter on stdout"):
        next(iter(camera(0, "exit", IMPATIENT)))


def test_leaving_the_loop_ends_the_child() -> None:
    source = camera(1, "hang", Patience(first=LONG, stall=LONG))
    frames = iter(source)
    assert next(frames).index == 0
    process = source._process
    assert process is not None
    assert alive(process._child.pid)
    source.close()
    assert not alive(process._child.pid)
    assert list(frames) == []
    source.close()


def test_closing_wakes_a_reader_that_waits() -> None:
    source = camera(0, "hang", Patience(first=LONG))
    seen: list[object] = []
    reader = threading.Thread(target=lambda: seen.extend(source))
    reader.start()
    while source._process is None:
        time.sleep(0.01)
    source.close()
    reader.join(LONG)
    assert not reader.is_alive()
    assert seen == []


class Mjpeg(BaseHTTPRequestHandler):
    """/stream sends the photograph again and again, /silence never answers.

    /cut goes silent after some frames, /hangs-up ends after some, /noise goes on with noise,
    /damaged spoils every other one.
    """

    def do_GET(self) -> None:
        if self.path == "/silence":
            time.sleep(600)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        ok, data = cv2.imencode(".jpg", cv2.cvtColor(PHOTO, cv2.COLOR_RGB2BGR))
        assert ok
        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % data.size
        with contextlib.suppress(OSError):
            for number in itertools.count():
                picture = bytearray(data.tobytes())
                if self.path == "/damaged" and number % 2:
                    picture[400:] = bytes(len(picture) - 400)
                if self.path == "/cut" and number == 10:
                    time.sleep(600)
                if self.path == "/hangs-up" and number == 6:
                    return
                if self.path == "/noise" and number >= 10:
                    self.wfile.write(np.random.default_rng(number).bytes(len(part + picture)))
                    continue
                self.wfile.write(part + picture + b"\r\n")
                time.sleep(0.02)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Mjpeg) as httpd:
        httpd.daemon_threads = True
        httpd.block_on_close = False
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_an_http_camera_is_read(server: str) -> None:
    with open_source(f"http://{server}/stream") as source:
        frames = list(islice(source, 3))
    assert [frame.index for frame in frames] == [0, 1, 2]
    for frame in frames:
        assert frame.image.shape == PHOTO.shape
        assert np.abs(frame.image.astype(float) - PHOTO).mean() < 6.0


def test_a_silent_network_camera_does_not_block(server: str) -> None:
    patience = Patience(first=1.5, restarts=0)
    with pytest.raises(EdgewfError, match=r"no frame for 1\.5 s"):
        next(iter(network_camera(f"http://{server}/silence", patience=patience)))


def test_the_password_of_a_camera_is_never_shown() -> None:
    uri = "http://me:hunter2@127.0.0.1:9/stream"  # the discard port, where nothing listens
    source = network_camera(uri, patience=Patience(restarts=0))
    assert source.uri == "http://me:***@127.0.0.1:9/stream"
    frames = iter(source)
    with pytest.raises(EdgewfError, match="check the address") as caught:
        next(frames)
    assert "cannot open the stream" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_capture_process_ends_with_its_parent(server: str) -> None:
    reading, writing = os.pipe()
    request = {"target": f"http://{server}/silence", "device": False, "options": {}}
    child = subprocess.Popen(
        [sys.executable, "-m", "edgewf.stream.capture", str(writing)],
        stdin=subprocess.PIPE,
        pass_fds=[writing],
    )
    os.close(writing)
    child.communicate(json.dumps(request).encode() + b"\n", timeout=LONG)  # then closes stdin
    assert child.returncode == 0
    os.close(reading)


def test_v4l2_devices_that_are_none_are_explained(tmp_path: Path) -> None:
    with pytest.raises(EdgewfError, match=r"no camera at /dev/video97 \(found: .*--device"):
        open_source("/dev/video97")
    with pytest.raises(EdgewfError, match="no camera at /dev/video97"):
        open_source("v4l2:///dev/video97?width=640&height=480")
    fake = tmp_path / "video0"
    fake.write_bytes(b"")
    with pytest.raises(EdgewfError, match="is not a camera device"):
        open_source(f"v4l2://{fake}")


def test_a_device_that_is_no_camera_is_given_up() -> None:
    source = v4l2_camera("/dev/null", {"width": 640}, patience=Patience(restarts=0))
    with pytest.raises(EdgewfError, match=r"/dev/null: the camera failed.*fuser"):
        next(iter(source))


def test_csi_without_gstreamer_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EdgewfError, match=r"gstreamer1\.0-tools nvidia-l4t-gstreamer"):
        open_source("csi://0")


# Stands in for gst-launch-1.0: checks the pipeline, then sends one colour as BGRx.
GST_LAUNCH = """#!{python}
import sys
expected = (
    "-q nvarguscamerasrc sensor-id=1 ! "
    "video/x-raw(memory:NVMM),format=NV12,width=64,height=48,framerate=15/1 ! "
    "nvvidconv ! video/x-raw,format=BGRx ! fdsink fd="
)
line = " ".join(sys.argv[1:])
assert line.startswith(expected), line
print("GST_ARGUS: Creating output stream", flush=True)
fd = int(line[len(expected):].removesuffix(" sync=false"))
with open(fd, "wb") as pipe:
    while True:
        pipe.write(bytes([10, 20, 30, 0]) * 64 * 48)
"""


def test_csi_frames_come_through_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "gst-launch-1.0"
    launcher.write_text(GST_LAUNCH.format(python=sys.executable))
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with open_source("csi://1?width=64&height=48&fps=15") as source:
        assert source.uri == "csi://1?width=64&height=48&fps=15"
        frames = list(islice(source, 3))
    for frame in frames:
        assert frame.image.shape == (48, 64, 3)
        assert (frame.image == (30, 20, 10)).all()


@pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not installed"
)
def test_gstreamer_writes_what_we_read() -> None:
    caps = "video/x-raw,format=BGRx,width=64,height=48,framerate=30/1"
    red = ["videotestsrc", "pattern=red", "!", "videoconvert", "!", caps]
    with csi_camera(0, width=64, height=48, elements=red) as source:
        frame = next(iter(source))
    assert frame.image.shape == (48, 64, 3)
    assert np.abs(frame.image.astype(int) - (255, 0, 0)).max() <= 2
