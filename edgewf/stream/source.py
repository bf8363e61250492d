"""From a URI to a source of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from edgewf.errors import EdgewfError
from edgewf.images import IMAGE_SUFFIXES
from edgewf.labels import Label
from edgewf.stream.camera import csi_camera, network_camera, v4l2_camera
from edgewf.stream.demo import DemoSource
from edgewf.stream.files import FolderSource, VideoSource
from edgewf.stream.frame import Source

_ACCEPTED = (
    "/dev/video0, v4l2:///dev/video0, rtsp://HOST/PATH, http://HOST/PATH, csi://0, a video file, "
    "a folder of images, or demo"
)
# Options and their least values.
_MODE = {"width": 1, "height": 1, "fps": 1}
_DEMO = {"frames": 1, "seed": 0}


def open_source(uri: str, *, labels: Sequence[Label] | None = None, seed: int = 0) -> Source:
    """Open the frames that a URI names.

    | URI | source |
    |---|---|
    | `/dev/video0`, `v4l2:///dev/video0?width=1280&height=720&fps=30` | V4L2 camera |
    | `rtsp://…`, `rtsps://…`, `http://…`, `https://…` | network camera |
    | `csi://0?width=1280&height=720&fps=30` | CSI camera of a Jetson |
    | a path, or `file:///…` | video file, or folder of images |
    | `demo?frames=2500&seed=0` | moving camera over photographs that get worse and better again |

    A folder that is itself called "demo" is `./demo`.

    Args:
        uri: see above.
        labels: classes of the model; for a folder whose sub-folders name the class of each image.
        seed: of the order of images in sub-folders, and of the demo where its URI names none.

    Raises:
        EdgewfError: unknown scheme or option, no such file or camera, or labels for something
            that is not a folder.
    """
    kind, target, query = _split(uri)
    if kind == "path" and Path(target).is_dir():
        return FolderSource(target, labels=labels, seed=seed)
    if labels is not None:
        raise EdgewfError(
            f"{uri} has no true labels: they come from the sub-folders of a folder of images"
        )
    if kind == "path":
        return _video(Path(target))
    if kind == "network":
        return network_camera(target)
    if kind == "v4l2":
        return v4l2_camera(target, _options(uri, query, _MODE))
    if kind == "csi":
        if not _is_number(target):
            raise EdgewfError(f"{uri}: expected the number of the camera, as in csi://0")
        mode = {"width": 1280, "height": 720, "fps": 30, **_options(uri, query, _MODE)}
        return csi_camera(int(target), width=mode["width"], height=mode["height"], fps=mode["fps"])
    return DemoSource(**{"seed": seed, **_options(uri, query, _DEMO)})


def _split(uri: str) -> tuple[str, str, str]:
    """Return the kind of source, what to open, and the options."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        name, _, query = uri.partition("?")
        if name == "demo":
            return name, "", query
        return ("v4l2" if uri.startswith("/dev/") else "path"), uri, ""
    if scheme in ("rtsp", "rtsps", "http", "https"):
        return "network", uri, ""
    if scheme in ("v4l2", "csi"):
        target, _, query = rest.partition("?")
        return scheme, target, query
    if scheme == "file":
        if not rest.startswith("/"):
            raise EdgewfError(f"{uri}: a file URI has three slashes, as in file:///home/me/a.mp4")
        return "path", unquote(rest), ""
    raise EdgewfError(f"unknown source {uri}: expected {_ACCEPTED}")


def _video(path: Path) -> Source:
    if not path.exists():
        raise EdgewfError(f"no such file or folder: {path}; a source is {_ACCEPTED}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise EdgewfError(f"{path} is a single image: give the folder that it is in")
    return VideoSource(path)


def _options(uri: str, query: str, least: dict[str, int]) -> dict[str, int]:
    """Return the whole numbers of a query; `least` has the names it may use and their minima."""
    options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in least:
            raise EdgewfError(f"{uri}: unknown option {name!r}; use {', '.join(least)}")
        if not _is_number(value) or int(value) < least[name]:
            raise EdgewfError(
                f"{uri}: {name} is {value!r}; it must be a whole number from {least[name]}"
            )
        options[name] = int(value)
    return options


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
