"""A camera: loops a folder of JPEG files as H.264 over RTSP, `python3 server.py PORT FOLDER FPS`.

Runs under the Python that has GStreamer's bindings, on Debian /usr/bin/python3 with the packages
python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and -ugly.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main(port: str, folder: str, fps: str) -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    factory = GstRtspServer.RTSPMediaFactory(shared=True)
    factory.set_launch(
        f'( multifilesrc location="{folder}/%05d.jpg" loop=true '
        f'caps="image/jpeg,framerate={fps}/1" ! jpegdec ! videoconvert ! '
        "video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast "
        "key-int-max=30 bitrate=2000 ! rtph264pay name=pay0 config-interval=1 )"
    )
    server.get_mount_points().add_factory("/camera", factory)
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
