"""A probe in a GStreamer pipeline: `gstreamer_probe.py BUNDLE [SOURCE ELEMENTS]`.

The pipeline goes on to wherever it went before; the probe looks at what passes.
"""

import ctypes
import sys

import gi
import numpy as np

# GStreamer loads libunwind for everybody, which cannot unwind the C++ exceptions of OpenVINO and
# aborts. The first one found wins.
ctypes.CDLL("libgcc_s.so.1", ctypes.RTLD_GLOBAL)
gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

from edgewf.monitor import Monitor  # noqa: E402


def main(bundle: str, source: str = "videotestsrc num-buffers=100 pattern=ball") -> None:
    Gst.init(None)
    pipeline = Gst.parse_launch(
        f"{source} ! videoconvert ! video/x-raw,format=RGB ! identity name=here ! fakesink"
    )
    with Monitor(bundle) as monitor:

        def look(pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
            shape = pad.get_current_caps().get_structure(0)
            height, width = shape.get_value("height"), shape.get_value("width")
            buffer = info.get_buffer()
            there, data = buffer.map(Gst.MapFlags.READ)
            if there:
                rows = np.frombuffer(data.data, np.uint8).reshape(height, -1)  # padded to 4 bytes
                frame = rows[:, : 3 * width].reshape(height, width, 3)
                print(monitor.observe(frame).name)
                buffer.unmap(data)
            return Gst.PadProbeReturn.OK

        pad = pipeline.get_by_name("here").get_static_pad("src")
        pad.add_probe(Gst.PadProbeType.BUFFER, look)
        pipeline.set_state(Gst.State.PLAYING)
        ends = Gst.MessageType.EOS | Gst.MessageType.ERROR
        message = pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, ends)
        pipeline.set_state(Gst.State.NULL)
        if message.type == Gst.MessageType.ERROR:
            sys.exit(str(message.parse_error()[0]))


if __name__ == "__main__":
    main(*sys.argv[1:])
