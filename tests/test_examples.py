"""The examples of the documentation, run as a user would, and the unit for systemd."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from edgewf.bundle import Bundle
from tests.tiny import CLASSES, constant_calibration, crops, export_tiny, tiny_settings

DOCS = Path(__file__).parent.parent / "docs"
DEBIAN = "/usr/lib/python3/dist-packages"  # where GStreamer's bindings are


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose estimates are always 50 %."""
    bundle = export_tiny(tmp_path_factory.mktemp("examples"))
    constant_calibration(bundle, tiny_settings()).write(bundle.folder)
    return bundle


def run(example: str, *arguments: str) -> str:
    code = (
        "import runpy, sys; sys.path.append(sys.argv[1]); del sys.argv[:2]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, DEBIAN, str(DOCS / "examples" / example), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_opencv_loop_tells_classes_and_accuracy(bundle: Bundle, tmp_path: Path) -> None:
    images, labels = crops(20, seed=4)
    path = tmp_path / "photographs.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 64))
    for image in images:
        writer.write(cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (64, 64)))
    writer.release()
    lines = run("opencv_loop.py", str(bundle.folder), str(path)).splitlines()
    told = [line.split()[0] for line in lines]
    right = sum(name == CLASSES[label] for name, label in zip(told, labels, strict=True))
    assert right > len(labels) / 2  # red and blue in their places


def test_the_gstreamer_probe_sees_every_frame(bundle: Bundle) -> None:
    if importlib.util.find_spec("gi") is None and not list(Path(DEBIAN).glob("gi/_gi.*")):
        pytest.skip("GStreamer's Python bindings are not installed (python3-gi)")
    debian = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({DEBIAN!r}); import gi; "
         "gi.require_version('Gst', '1.0'); from gi.repository import Gst"],
        capture_output=True,
    )  # fmt: skip
    if debian.returncode:
        pytest.skip("GStreamer's Python bindings are of another Python, or GStreamer is missing")
    source = "videotestsrc num-buffers=12 ! video/x-raw,width=50,height=40"  # rows are padded
    lines = run("gstreamer_probe.py", str(bundle.folder), source).splitlines()
    assert len(lines) == 12
    assert set(lines) <= set(CLASSES)


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = (DOCS / "edgewf.service").read_text()
    unit = tmp_path / "edgewf.service"
    unit.write_text(re.sub(r"/opt/edgewf/bin/edgewf", "/bin/true", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
