"""Power, clocks and noise, read from copies of the files of boards and through a C library."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from edgewf.bench.clocks import Clocks
from edgewf.bench.meter import Meter, Reading, conditions
from edgewf.bench.noise import CpuTime, complaints
from edgewf.bench.nvml import Nvml
from edgewf.bench.power import Counted, Sampled, module_rails, power_sources
from tests.boards import change, write_board

RAPL = "sys/class/powercap/intel-rapl:0"
QUIET = {"cpu_mhz": None, "gpu_mhz": None, "temperature": None, "throttled": None}


def test_the_rails_of_an_orin_add_up(tmp_path: Path) -> None:
    rails = module_rails(write_board("orin", tmp_path))
    assert {name: round(read(), 3) for name, read in rails.items()} == {
        "VDD_GPU_SOC": 3.173,
        "VDD_CPU_CV": 0.952,
        "VIN_SYS_5V0": 4.872,
        "VDDQ_VDD2_1V8AO": 0.998,
    }
    (source,) = power_sources(tmp_path)
    assert source.name == "module, VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 + VDDQ_VDD2_1V8AO"


def test_the_rails_of_a_xavier_add_up(tmp_path: Path) -> None:
    rails = module_rails(write_board("xavier", tmp_path))
    assert list(rails) == ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]
    assert sum(read() for read in rails.values()) == pytest.approx(7.209)


def test_an_input_rail_already_holds_the_others(tmp_path: Path) -> None:
    write_board("orin", tmp_path)
    change(tmp_path, "sys/class/hwmon/hwmon3/in1_label", "VDD_IN")
    (source,) = power_sources(tmp_path)
    assert source.name == "module, VDD_IN"


def test_a_rail_that_is_switched_off_draws_nothing(tmp_path: Path) -> None:
    rails = module_rails(write_board("orin", tmp_path))
    (tmp_path / "sys/class/hwmon/hwmon3/curr2_input").unlink()
    assert rails["VDD_CPU_CV"]() == 0


def test_without_visible_files_jetson_stats_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its service answers as jtop.power is documented: milliwatts."""
    service = SimpleNamespace(
        start=lambda: None, power={"rail": {}, "tot": {"name": "VDD_IN", "power": 4880}}
    )
    module = ModuleType("jtop")
    module.__spec__ = ModuleSpec("jtop", None)
    module.jtop = lambda: service  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jtop", module)
    (source,) = power_sources(tmp_path)
    assert source.name == "module, by jetson-stats"
    before = time.perf_counter()
    first = source.joules()
    begin = time.perf_counter()
    time.sleep(0.01)
    end = time.perf_counter()
    drawn = source.joules() - first
    assert 4.88 * (end - begin) <= drawn <= 4.88 * (time.perf_counter() - before)
    (source,) = power_sources(write_board("orin", tmp_path))
    assert source.name.startswith("module, VDD_GPU_SOC")


def test_jetson_stats_without_its_service(tmp_path: Path) -> None:
    pytest.importorskip("jtop", reason="needs jetson-stats")
    assert power_sources(tmp_path) == []


def test_energy_is_the_integral_of_the_power() -> None:
    watts, now = [2.0], [0.0]
    source = Sampled("it", lambda: watts[0], lambda: now[0])
    watts[0], now[0] = 4.0, 10.0
    assert source.joules() == 30.0
    now[0] = 11.0
    assert source.joules() == 34.0


def test_a_counter_of_energy_may_wrap(tmp_path: Path) -> None:
    change(tmp_path, f"{RAPL}/name", "package-0")
    change(tmp_path, f"{RAPL}/max_energy_range_uj", "1000000000")
    change(tmp_path, f"{RAPL}/energy_uj", "999000000")
    (source,) = power_sources(tmp_path)
    assert source.name == "CPU package-0"
    change(tmp_path, f"{RAPL}/energy_uj", "2000000")
    assert source.joules() == pytest.approx(3.0)


def test_a_counter_that_only_root_may_read_is_left_out(tmp_path: Path) -> None:
    change(tmp_path, f"{RAPL}/name", "package-0")
    change(tmp_path, f"{RAPL}/max_energy_range_uj", "1000000000")
    assert power_sources(tmp_path) == []


@pytest.mark.parametrize(("board", "gpu"), [("orin", 1300.5), ("xavier", 1377.0)])
def test_the_gpu_clock_of_a_board(tmp_path: Path, board: str, gpu: float) -> None:
    assert Clocks(write_board(board, tmp_path)).gpu() == gpu


def test_the_processor_clock_is_the_mean_of_the_cores(tmp_path: Path) -> None:
    assert Clocks(write_board("orin", tmp_path)).cpu() == pytest.approx(1465.6)
    bare = tmp_path / "bare"
    change(bare, "proc/cpuinfo", "cpu MHz\t\t: 2000.0\n\ncpu MHz\t\t: 3000.0")
    assert Clocks(bare).cpu() == 2500.0
    assert Clocks(tmp_path / "nothing").cpu() is None


def test_a_meter_on_an_orin(tmp_path: Path) -> None:
    change(write_board("orin", tmp_path), "proc/meminfo", "MemAvailable:    1024 kB")
    with Meter(tmp_path) as meter:
        begin = time.perf_counter()
        while len(meter.readings) < 14:
            time.sleep(0.02)
        end = time.perf_counter()
    assert meter.power_mode == "MODE_30W"
    assert meter.energy(begin, end) == pytest.approx(9.996 * (end - begin), rel=1e-3)
    assert meter.energy(begin, begin + 0.1) is None, "a single reading has no energy"
    assert meter.readings[0].available_bytes == 1 << 20
    assert conditions(meter.readings) == {
        "cpu_mhz": [pytest.approx(1465.6)] * 2,
        "gpu_mhz": [1300.5] * 2,
        "temperature": [51.5] * 2,
        "throttled": False,
    }


def test_a_machine_without_sensors(tmp_path: Path) -> None:
    with Meter(tmp_path) as meter:
        pass
    assert meter.sources == ()
    unknown = Reading(meter.readings[0].time, None, None, None, None, None, None, None)
    assert meter.readings[0] == unknown
    assert conditions(meter.readings) == QUIET


def test_shares_of_the_processors_time(tmp_path: Path) -> None:
    change(tmp_path, "proc/stat", "cpu  0 0 0 0 0 0 0 0 0 0")
    before = CpuTime.now(tmp_path)
    change(tmp_path, "proc/stat", "cpu  100000 0 20000 60000 0 0 0 20000 0 0")
    foreign, steal = before.shares_until(CpuTime.now(tmp_path))
    assert foreign == pytest.approx(0.6, abs=0.01)
    assert steal == pytest.approx(0.1)
    assert before.shares_until(before) == (0.0, 0.0)


def test_a_quiet_run_has_nothing_to_complain_of() -> None:
    assert complaints(0.01, 0.0, 3.0, QUIET, {"a: step": 0.01}) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((0.3, 0.0, 0.0, QUIET, {}), "other processes used 30 %"),
        ((0.0, 0.2, 0.0, QUIET, {}), "hypervisor gave 20 %"),
        ((0.3, 0.0, 2.0, QUIET, {}), "load average was 2.0"),
        ((0.0, 0.0, 0.0, {**QUIET, "gpu_mhz": [600.0, 1300.0]}, {}), "GPU's clock"),
        ((0.0, 0.0, 0.0, {**QUIET, "throttled": True}, {}), "slowed down"),
        ((0.0, 0.0, 0.0, QUIET, {"a: step": 0.01, "b: step": 0.2}), r"20 % \(b: step\)"),
    ],
)
def test_a_noisy_run_says_why(arguments: tuple[object, ...], word: str) -> None:
    assert any(re.search(word, line) for line in complaints(*arguments))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Nvml:
    """A library with NVML's functions, as its header declares them, on a GPU that never changes."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to make the library")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(_LIBRARY)
    library = folder / "libnvml.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "nvml.c"], check=True)
    return Nvml(ctypes.CDLL(str(library)))


def test_what_nvml_says(nvml: Nvml) -> None:
    assert nvml.watts() == 71.25
    assert nvml.joules() is None, "not supported by this GPU"
    assert nvml.temperature() == 64
    assert nvml.megahertz() == 1695
    assert nvml.throttled() is True
    assert nvml.used_bytes() == 3 << 30


def test_a_gpu_without_an_energy_counter_is_sampled(tmp_path: Path, nvml: Nvml) -> None:
    (source,) = power_sources(tmp_path, nvml)
    assert isinstance(source, Sampled)
    assert source.name == "GPU"


def test_a_counter_that_never_wraps_counts_on() -> None:
    values = iter([5.0, 8.0])
    assert Counted("GPU", lambda: next(values)).joules() == 3.0


_LIBRARY = """
typedef struct { unsigned long long total, free, used; } memory_t;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) { *device = (void *)42; return i; }
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) { return 3; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw)
{ *mw = 71250; return d != (void *)42; }
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *celsius)
{ *celsius = 64; return sensor != 0; }
int nvmlDeviceGetClockInfo(void *d, int type, unsigned *mhz) { *mhz = 1695; return type != 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *reasons)
{ *reasons = 0x20 | 0x1; return 0; }
int nvmlDeviceGetMemoryInfo(void *d, memory_t *m)
{ m->total = 8ull << 30; m->free = 5ull << 30; m->used = 3ull << 30; return 0; }
"""
