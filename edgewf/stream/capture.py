"""The child process that reads a camera with OpenCV: `python -m edgewf.stream.capture FD`.

OpenCV's `VideoCapture` can block for ever in `read()`, and no thread can be stopped inside it; a
process can. stdin brings one JSON line that says what to open (not the command line, which every
user of the machine can see, and which may hold a password). FD takes the frames: height and width
as two little-endian uint32, then RGB bytes. The process ends when reading fails, when FD is closed,
or when stdin is, so that it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import cv2

from edgewf.stream.header import HEADER

_PROPERTIES = {
    "width": cv2.CAP_PROP_FRAME_WIDTH,
    "height": cv2.CAP_PROP_FRAME_HEIGHT,
    "fps": cv2.CAP_PROP_FPS,
}


def _open(request: dict[str, Any]) -> cv2.VideoCapture:
    """Open `target`; `options` (width, height, fps) are wishes that a camera may round."""
    device = request["device"]
    capture = cv2.VideoCapture(request["target"], cv2.CAP_V4L2 if device else cv2.CAP_ANY)
    for name, value in request["options"].items():
        capture.set(_PROPERTIES[name], value)
    if device:
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # old frames are of no use
    return capture


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)  # the main thread may be stuck in the driver


def main() -> int:
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    capture = _open(request)
    if not capture.isOpened():
        print("cannot open the stream", file=sys.stderr)
        return 1
    try:
        with open(int(sys.argv[1]), "wb") as pipe:
            while True:
                ok, pixels = capture.read()
                if not ok:
                    print("the stream ended", file=sys.stderr)
                    return 1
                rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                pipe.write(HEADER.pack(*rgb.shape[:2]))
                pipe.write(rgb.data.cast("B"))
                pipe.flush()
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
