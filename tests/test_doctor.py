"""`edgewf doctor`: parsers on texts that real machines printed, and the whole on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from edgewf.cli import main
from edgewf.doctor import examine
from edgewf.doctor.files import output, read
from edgewf.doctor.machine import cameras, cpu_model, machine, memory_total, os_name
from edgewf.doctor.nvidia import (
    driver_version,
    jetpack_version,
    l4t_version,
    nvidia,
    power_mode,
)
from edgewf.doctor.software import compiler, gstreamer_support, module
from edgewf.doctor.table import doctor_report
from edgewf.engines.select import CANDIDATES
from tests.tiny import EDGEWF

JETPACK_5 = (
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
    "DATE: Tue Aug  1 19:57:35 UTC 2023\n"
)
JETPACK_6 = (
    "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, "
    "DATE: Thu Sep 18 22:54:44 UTC 2025\n"
    "# KERNEL_VARIANT: oot\n"
    "TARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
)
JETPACK_7 = (
    "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, "
    "DATE: Thu Sep 25 22:47:11 UTC 2025\n"
    "# KERNEL_VARIANT: oot\n"
    "TARGET_USERSPACE_LIB_DIR=nvidia\n"
    "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
    "INSTALL_TYPE=\n"
)
ORIN_DRIVER = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  "
    "(buildbrain@mobile-u64-6336-d8000)  Tue Jan  7 17:35:12 PST 2025\n"
    "GCC version:  collect2: error: ld returned 1 exit status    \n"
)
DESKTOP_DRIVER = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Wed Jan 22 23:41:20 UTC 2025\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04.1) \n"
)
OPEN_DRIVER = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.142  Release Build  "
    "(dvs-builder@U22-I3-H10-02-1)  Tue Mar  3 19:08:06 UTC 2026\n"
)
DPKG = """\
Package: nvidia-jetpack-dev
Status: install ok installed
Architecture: arm64
Version: 9.9+b1

Package: nvidia-jetpack
Status: install ok installed
Priority: standard
Section: metapackages
Installed-Size: 199
Maintainer: NVIDIA Corporation
Architecture: arm64
Version: 6.2.1+b38
Depends: nvidia-jetpack-runtime (= 6.2.1+b38), nvidia-jetpack-dev (= 6.2.1+b38)

Package: zlib1g
Version: 1:1.2.11.dfsg-2ubuntu9.2
"""


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """The files of a Jetson Orin Nano with a camera of two devices."""
    files = {
        "etc/nv_tegra_release": JETPACK_6,
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\n',
        "proc/driver/nvidia/version": ORIN_DRIVER,
        "proc/device-tree/model": (
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
        ),
        "proc/meminfo": "MemTotal:        7802748 kB\nMemFree:          148520 kB\n",
        "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\nCPU implementer\t: 0x41\n",
        "var/lib/dpkg/status": DPKG,
        "sys/class/video4linux/video0/name": "HD Pro Webcam C920\n",
        "dev/video10": "",
        "dev/video0": "",
        "dev/video-codec": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "l4t", "jetpack"),
    [
        (JETPACK_5, "35.4.1", "5"),
        (JETPACK_6, "36.4.7", "6"),
        (JETPACK_7, "38.2.2", "7"),
        ("# R39 (release), REVISION: 2.1\n", "39.2.1", "7"),
        ("# R99 (release), REVISION: 1.0, GCID: 1\n", "99.1.0", None),
        ("", None, None),
        ("something else\n", None, None),
    ],
)
def test_l4t_and_its_jetpack(text: str, l4t: str | None, jetpack: str | None) -> None:
    assert l4t_version(text) == l4t
    assert jetpack_version(l4t, "") == jetpack


def test_the_installed_jetpack_package_is_exact() -> None:
    assert jetpack_version("36.4.4", DPKG) == "6.2.1"
    assert jetpack_version(None, DPKG) is None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (ORIN_DRIVER, "540.4.0"),
        (DESKTOP_DRIVER, "570.86.15"),
        (OPEN_DRIVER, "580.142"),
        ("", None),
        ("GCC version:  gcc version 13.3.0\n", None),
    ],
)
def test_driver_version(text: str, version: str | None) -> None:
    assert driver_version(text) == version


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n0\n", "15W"),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n", "MODE_30W"),
        ("", None),
    ],
)
def test_power_mode(text: str, mode: str | None) -> None:
    assert power_mode(text) == mode


def test_a_jetson(orin: Path) -> None:
    facts = nvidia(orin)
    assert facts["jetson"]
    assert (facts["l4t"], facts["jetpack"], facts["driver"]) == ("36.4.7", "6.2.1", "540.4.0")
    facts = machine(orin)
    assert facts["board"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert facts["system"] == "Ubuntu 22.04.5 LTS"
    assert facts["memory"] == 7802748 * 1024
    assert facts["cpu"] is None
    assert [(x["device"], x["name"]) for x in cameras(orin)] == [
        ("/dev/video0", "HD Pro Webcam C920"),
        ("/dev/video10", None),
    ]


def test_a_jetson_without_its_release_file_is_one_still(tmp_path: Path) -> None:
    (tmp_path / "sys/module/tegra_fuse").mkdir(parents=True)
    facts = nvidia(tmp_path)
    assert facts["jetson"]
    assert facts["l4t"] is facts["jetpack"] is None


def test_an_empty_machine_is_described_and_not_an_error(tmp_path: Path) -> None:
    assert machine(tmp_path)["memory"] is None
    assert not nvidia(tmp_path)["jetson"]
    assert cameras(tmp_path) == []
    assert os_name("") is cpu_model("") is memory_total("") is None
    assert examine(tmp_path)["machine"]["system"] is None


def test_commands_that_are_missing_or_fail_print_what_they_print() -> None:
    assert output("edgewf-no-such-command") == ""
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert sorted(output(sys.executable, "-c", script).split()) == ["err", "out"]
    assert read(Path("/no/such/file")) == ""


def test_compilers_tell_their_versions(tmp_path: Path) -> None:
    nvcc = tmp_path / "edgewf-nvcc"
    nvcc.write_text(
        "#!/bin/sh\necho 'nvcc: NVIDIA (R) Cuda compiler driver'\n"
        "echo 'Cuda compilation tools, release 12.6, V12.6.68'\n"
    )
    nvcc.chmod(0o755)
    found = compiler("edgewf-nvcc", r"release [\d.]+, V([\d.]+)", tmp_path)
    assert found == {"version": "12.6.68", "path": str(nvcc)}
    assert compiler("edgewf-no-such-compiler", "x") is None


def test_modules_that_are_missing_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgewf_broken.py").write_text("raise ImportError('libnvinfer.so.10: not found')")
    (tmp_path / "edgewf_whole.py").write_text("__version__ = '1.2-rc1'")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module("edgewf_no_such_module") is None
    assert module("edgewf_broken") == {"version": None, "problem": "libnvinfer.so.10: not found"}
    assert module("edgewf_whole") == {"version": "1.2", "problem": None}
    assert module("edgewf_whole", probe="edgewf_broken") == {
        "version": None,
        "problem": "libnvinfer.so.10: not found",
    }


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("    GStreamer:                   YES (1.20.3)", "1.20.3"),
        ("    GStreamer:                   YES", "yes"),
        ("    GStreamer:                   NO", None),
    ],
)
def test_gstreamer_of_opencv(line: str, found: str | None) -> None:
    assert gstreamer_support(f"  Video I/O:\n    DC1394: NO\n{line}\n    v4l/v4l2: YES\n") == found


def test_json_is_one_object_with_an_entry_for_every_engine() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    record = json.loads(line)
    keys = ["edgewf", "machine", "nvidia", "software", "cameras", "engines", "auto"]
    assert list(record) == keys
    assert [engine["name"] for engine in record["engines"]] == [c.name for c in CANDIDATES]
    for engine in record["engines"]:
        assert engine["can_run"] == (not engine["missing"])
    (chosen,) = (x for x in record["engines"] if x["name"] == record["auto"])
    assert chosen["can_run"]
    assert record["software"]["onnxruntime"]["problem"] is None
    assert "CPUExecutionProvider" in record["software"]["providers"]


def test_the_tables_show_machine_and_engines(orin: Path) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(doctor_report(examine(orin)))
    text = capture.get()
    for shown in ("36.4.7", "6.2.1", "HD Pro Webcam C920", "7.4 GiB", "openvino", "opencv"):
        assert shown in text


def test_the_tables_come_on_stderr_alone() -> None:
    done = subprocess.run(
        [*EDGEWF, "doctor"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert "onnxruntime" in done.stderr
