"""Live sources: V4L2 devices, network streams and CSI cameras.

Each reads in a child process, because a driver or a network can block a reader for ever. A child
that stalls or ends is replaced, with growing pauses.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from edgewf.errors import EdgewfError
from edgewf.preprocessing import Image
from edgewf.stream.frame import Frame, Source
from edgewf.stream.health import SourceHealth
from edgewf.stream.picture import PictureWatch
from edgewf.stream.process import FrameProcess

_MOST_DOUBLINGS = 16


@dataclass(frozen=True)
class Patience:
    """How long a camera may keep its reader waiting; all times in seconds.

    Attributes:
        first: from the start of a child to its first frame (RTSP may wait for a key frame).
        stall: between two frames.
        restarts: tries after the first, of a camera that has never sent a frame. One that has
            is tried for ever.
        backoff: pause before the first restart, doubled for each one after it.
        longest: pause between two restarts.
        steady: a child that sent frames for this long wipes out the failures before it.
    """

    first: float = 20.0
    stall: float = 5.0
    restarts: int = 4
    backoff: float = 0.5
    longest: float = 30.0
    steady: float = 30.0


class CameraSource(Source):
    """The newest frame whenever one is asked for; frames that nobody took in time are dropped.

    A camera that goes away is opened again and again until it is back, however long that takes.

    Args:
        uri: for display, without passwords.
        start: starts a child.
        advice: what to check when no frames come.
        secret: text that must not show in messages.

    Raises:
        EdgewfError: while frames are taken, when the first one has not come after all restarts.
    """

    def __init__(
        self,
        uri: str,
        start: Callable[[], FrameProcess],
        *,
        advice: str,
        secret: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.uri = uri
        self.live = True
        self.frames_total = None
        self._start = start
        self._advice = advice
        self._secret = secret
        self._patience = patience or Patience()
        self._process: FrameProcess | None = None
        self._closed = threading.Event()
        self._picture = PictureWatch()
        self._ended = _Counts()  # of children that have ended
        self._counting = threading.Lock()
        self._down = False
        self._message = ""

    def __iter__(self) -> Iterator[Frame]:
        patience = self._patience
        index = failures = 0
        while not self._closed.is_set():
            process = self._process = self._start()
            began: float | None = None
            last = 0.0
            try:
                wait = patience.first
                # Looked at after the start: close() may have come in between.
                while not self._closed.is_set() and (taken := process.newest(wait)):
                    image, last = taken
                    began = last if began is None else began
                    wait = patience.stall
                    self._picture.update(image, last)
                    self._down, self._message = False, ""
                    yield Frame(_rgb(image), index, last)
                    index += 1
                reason = "" if process.ended else f"no frame for {wait:g} s"
            finally:
                words = process.stop()
                with self._counting:
                    self._ended += _Counts.of(process)
                    self._down = True
            steady = began is not None and last - began >= patience.steady
            failures = 1 if steady else failures + 1
            self._message = self._reason(reason, words)
            if index == 0 and failures > patience.restarts and not self._closed.is_set():
                raise EdgewfError(self._complaint(failures))
            doubled = patience.backoff * 2 ** min(failures - 1, _MOST_DOUBLINGS)
            self._closed.wait(min(doubled, patience.longest))

    def health(self) -> SourceHealth:
        with self._counting:
            process, down, counts = self._process, self._down, self._ended
            reconnects = counts.children
            # A child that is being replaced is in the counts already.
            if process is not None and not down:
                counts += _Counts.of(process)
        silence = None if counts.last_frame is None else time.time() - counts.last_frame
        if self._closed.is_set():
            state = "ended"
        elif down:
            state = "reconnecting"
        elif silence is None:
            state = "starting"
        else:
            state = "live" if silence < self._patience.stall / 2 else "stalled"
        return SourceHealth(
            state=state,
            frames=counts.frames,
            dropped=counts.dropped,
            decode_errors=counts.decode_errors,
            reconnects=reconnects,
            frozen=self._picture.frozen,
            black=self._picture.black,
            last_frame=counts.last_frame,
            message=self._message.rpartition("\n")[2],
        )

    def close(self) -> None:
        self._closed.set()
        if self._process is not None:
            self._process.stop()

    def _complaint(self, failures: int) -> str:
        times = "once" if failures == 1 else f"{failures} times in a row"
        return f"{self.uri}: the camera failed {times}; {self._advice}. Last seen: {self._message}"

    def _reason(self, reason: str, words: str) -> str:
        detail = "\n".join(filter(None, [words, reason])) or "the capture process ended"
        return detail.replace(self._secret, "***") if self._secret else detail


@dataclass(frozen=True)
class _Counts:
    """What came from one child or several."""

    children: int = 0
    frames: int = 0
    dropped: int = 0
    decode_errors: int = 0
    last_frame: float | None = None

    @classmethod
    def of(cls, process: FrameProcess) -> _Counts:
        return cls(1, process.frames, process.dropped, process.decode_errors, process.last_frame)

    def __add__(self, later: _Counts) -> _Counts:
        return _Counts(
            self.children + later.children,
            self.frames + later.frames,
            self.dropped + later.dropped,
            self.decode_errors + later.decode_errors,
            self.last_frame if later.last_frame is None else later.last_frame,
        )


def v4l2_camera(
    device: str, options: Mapping[str, int] | None = None, *, patience: Patience | None = None
) -> CameraSource:
    """Return a USB or other Video4Linux camera.

    Args:
        device: path such as "/dev/video0".
        options: wishes for width, height (pixels) and fps; the camera takes its nearest mode.

    Raises:
        EdgewfError: there is no such device, or it may not be read.
    """
    path = Path(device)
    if not path.exists():
        others = ", ".join(map(str, sorted(Path("/dev").glob("video*")))) or "none"
        raise EdgewfError(
            f"no camera at {device} (found: {others}): plug it in, and in a container pass it on "
            f"with --device {device}"
        )
    if not stat.S_ISCHR(path.stat().st_mode):
        raise EdgewfError(f"{device} is not a camera device: expected a path such as /dev/video0")
    if not os.access(path, os.R_OK | os.W_OK):
        raise EdgewfError(
            f"no permission to read {device}: add your user to the group that owns it "
            "(`sudo usermod -aG video $USER`) and log in again"
        )
    return CameraSource(
        device,
        _opencv(device, device=True, options=options or {}),
        advice=f"check its cable, and that no other program holds it (`fuser -v {device}`)",
        patience=patience,
    )


def network_camera(uri: str, *, patience: Patience | None = None) -> CameraSource:
    """Return an RTSP camera, or an HTTP stream such as MJPEG.

    Args:
        uri: rtsp, rtsps, http or https; its query is the camera's own and is passed on.

    Raises:
        EdgewfError: the address is malformed.
    """
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise EdgewfError(f"{uri} is not an address: {error}") from error
    if not host:
        raise EdgewfError(f"{uri} names no host: expected e.g. rtsp://192.168.1.20:554/stream")
    shown = uri
    if parts.password:
        shown = parts._replace(
            netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}"
        ).geturl()
    return CameraSource(
        shown,
        _opencv(uri, device=False, options={}),
        advice="check the address, user and password, and that the camera answers "
        f"(`ffplay {shown}`)",
        secret=parts.password,
        patience=patience,
    )


def csi_camera(
    sensor: int,
    *,
    width: int = 1280,
    height: int = 720,
    fps: int = 30,
    elements: Sequence[str] | None = None,
    patience: Patience | None = None,
) -> CameraSource:
    """Return a CSI camera of a Jetson, through a `gst-launch-1.0` child.

    OpenCV from PyPI is built without GStreamer, so the frames come through a pipe.

    Args:
        sensor: number of the camera.
        width, height: in pixels. fps: frames a second. The sensor must offer this mode.
        elements: GStreamer elements in place of nvarguscamerasrc and nvvidconv, as arguments of
            gst-launch-1.0; they must end in BGRx of this width and height.

    Raises:
        EdgewfError: gst-launch-1.0 is not installed.
    """
    if shutil.which("gst-launch-1.0") is None:
        raise EdgewfError(
            f"csi://{sensor} needs gst-launch-1.0: `sudo apt install gstreamer1.0-tools "
            "nvidia-l4t-gstreamer nvidia-l4t-camera` on the Jetson"
        )
    if elements is None:
        elements = _argus(sensor, width, height, fps)
    command = ["gst-launch-1.0", "-q", *elements, "!", "fdsink", "fd={fd}", "sync=false"]
    return CameraSource(
        f"csi://{sensor}?width={width}&height={height}&fps={fps}",
        partial(FrameProcess, command, shape=(height, width, 4)),
        advice="check the ribbon cable and the sensor mode, restart the camera daemon "
        "(`sudo systemctl restart nvargus-daemon`), and in a container mount /tmp/argus_socket",
        patience=patience,
    )


def _argus(sensor: int, width: int, height: int, fps: int) -> list[str]:
    mode = f"width={width},height={height},framerate={fps}/1"
    return [
        "nvarguscamerasrc",
        f"sensor-id={sensor}",
        "!",
        f"video/x-raw(memory:NVMM),format=NV12,{mode}",
        "!",
        "nvvidconv",
        "!",
        "video/x-raw,format=BGRx",
    ]


def _opencv(target: str, *, device: bool, options: Mapping[str, int]) -> Callable[[], FrameProcess]:
    request = {"target": target, "device": device, "options": dict(options)}
    command = [sys.executable, "-m", "edgewf.stream.capture", "{fd}"]
    return partial(FrameProcess, command, first_line=json.dumps(request))


def _rgb(image: Image) -> Image:
    if image.shape[2] == 4:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2RGB), np.uint8)
    return image
