"""A child process that writes raw frames to a pipe, of which the newest is kept."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from io import BufferedReader

import numpy as np

from edgewf.preprocessing import Image
from edgewf.stream.header import HEADER

_LAST_WORDS = 20  # lines of the child's output kept for the error message
# FFmpeg's libraries begin a line with the part that complains.
_DECODER = re.compile(rb"\[(h26[34]|hevc|mjpeg|mpeg4|av1|libdav1d|vp[89]) @ ")
_GRACE_S = 2.0  # between the request to end and the kill


class FrameProcess:
    """Starts a child, reads its frames as they come, and forgets all but the newest.

    Args:
        command: program and arguments; "{fd}" in them becomes the number of the descriptor that
            takes the frames. stdout is no place for them: libraries print there
            (nvarguscamerasrc does).
        first_line: written to the child's stdin, which then stays open until the child shall end.
        shape: (height, width, channels) of frames without a header; None where each frame
            brings a `HEADER`.

    Attributes:
        frames: that came so far. dropped: of those, replaced by a newer one before they were taken.
        decode_errors: complaints of video decoders among what the child printed.
        last_frame: when the newest came, seconds since the epoch; None before the first.

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        first_line: str = "",
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        self._shape = shape
        self._changed = threading.Condition()
        self._newest: tuple[Image, float] | None = None
        self._ended = False
        self._words: deque[str] = deque(maxlen=_LAST_WORDS)
        self.frames = self.dropped = self.decode_errors = 0
        self.last_frame: float | None = None
        reading, writing = os.pipe()
        try:
            self._child = subprocess.Popen(
                [part.replace("{fd}", str(writing)) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                start_new_session=True,  # Ctrl-C is for the parent, which then ends the child
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._threads = [
            threading.Thread(target=self._read_frames, args=[reading], daemon=True),
            threading.Thread(target=self._read_words, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a child that died at once left its words
            self._child.stdin.write(first_line.encode() + b"\n")
            self._child.stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether the child has stopped sending frames for good."""
        return self._ended

    def newest(self, timeout: float) -> tuple[Image, float] | None:
        """Take the newest frame and its time of arrival (seconds since the epoch).

        Waits until there is one that was not taken yet; None when the child ended or `timeout`
        seconds passed first.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended, timeout)
            taken, self._newest = self._newest, None
            return taken

    def stop(self) -> str:
        """End the child, whatever state it is in, and return the last lines that it printed."""
        if self._child.returncode is None:  # once reaped, its number may belong to another process
            with contextlib.suppress(BrokenPipeError):
                assert self._child.stdin is not None
                self._child.stdin.close()
            try:
                # Interrupted, gst-launch-1.0 gives the camera back; killed, it may not.
                self._signal(signal.SIGINT)
                self._child.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._child.wait()
        for thread in self._threads:
            thread.join(_GRACE_S)
        return "\n".join(self._words)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)

    def _read_frames(self, reading: int) -> None:
        with open(reading, "rb") as pipe:
            while (image := self._read_frame(pipe)) is not None:
                with self._changed:
                    self.frames += 1
                    self.dropped += self._newest is not None
                    self.last_frame = time.time()
                    self._newest = image, self.last_frame
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_frame(self, pipe: BufferedReader) -> Image | None:
        shape = self._shape
        if shape is None:
            header = pipe.read(HEADER.size)
            if len(header) < HEADER.size:
                return None
            height, width = HEADER.unpack(header)
            shape = height, width, 3
        image = np.empty(shape, np.uint8)
        return image if pipe.readinto(image.data.cast("B")) == image.size else None

    def _read_words(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for line in lines:
                self.decode_errors += _DECODER.match(line) is not None
                self._words.append(line.decode(errors="replace").rstrip())
