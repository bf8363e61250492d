"""Live sources: V4L2 devices, network streams and CSI cameras.

Each reads in a child process, because a driver or a network can block a reader for ever. A child
that stalls or ends is replaced, with growing pauses, until the patience is spent.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import threading
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
from edgewf.stream.process import FrameProcess


@dataclass(frozen=True)
class Patience:
    """How long a camera may keep its reader waiting; all times in seconds.

    Attributes:
        first: from the start of a child to its first frame (RTSP may wait for a key frame).
        stall: between two frames.
        restarts: tries after the first, in a row.
        backoff: pause before the first restart, doubled for each one after it.
        steady: a child that sent frames for this long wipes out the failures before it.
    """

    first: float = 20.0
    stall: float = 5.0
    restarts: int = 4
    backoff: float = 0.5
    steady: float = 30.0


class CameraSource(Source):
    """The newest frame whenever one is asked for; frames that nobody took in time are dropped.

    Args:
        uri: for display, without passwords.
        start: starts a child.
        advice: what to check when no frames come.
        secret: text that must not show in messages.

    Raises:
        EdgewfError: while frames are taken, when the restarts are spent.
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
                    yield Frame(_rgb(image), index, last)
                    index += 1
                reason = "" if process.ended else f"no frame for {wait:g} s"
            finally:
                words = process.stop()
            steady = began is not None and last - began >= patience.steady
            failures = 1 if steady else failures + 1
            if failures > patience.restarts and not self._closed.is_set():
                raise EdgewfError(self._complaint(failures, reason, words))
            self._closed.wait(patience.backoff * 2 ** (failures - 1))

    def close(self) -> None:
        self._closed.set()
        if self._process is not None:
            self._process.stop()

    def _complaint(self, failures: int, reason: str, words: str) -> str:
        times = "once" if failures == 1 else f"{failures} times in a row"
        detail = "\n".join(filter(None, [reason, words])) or "the capture process ended"
        if self._secret:
            detail = detail.replace(self._secret, "***")
        return f"{self.uri}: the camera failed {times}; {self._advice}. Last seen: {detail}"


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
