"""NVIDIA's management library, asked through ctypes: power, energy, clocks, heat, memory.

The functions and constants are those of the NVML API Reference Guide. Jetson before JetPack 7 has
no NVML; `edgewf.bench.power` reads its own sensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

LIBRARY = "libnvidia-ml.so.1"

_TEMPERATURE_GPU = 0
_CLOCK_GRAPHICS = 0
# nvmlClocksEventReason...: software power cap, hardware slowdown, software and hardware thermal
# slowdown, power brake.
_SLOWED = 0x04 | 0x08 | 0x20 | 0x40 | 0x80


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class Nvml:
    """The first GPU, which is the one that engines use.

    Args:
        library: a loaded libnvidia-ml.

    Raises:
        OSError: the library has no GPU to show.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._device = ctypes.c_void_p()
        for function, arguments in (
            ("nvmlInit_v2", ()),
            ("nvmlDeviceGetHandleByIndex_v2", (0, ctypes.byref(self._device))),
        ):
            status = getattr(library, function)(*arguments)
            if status:
                raise OSError(f"{function} returns {status}")

    @classmethod
    def open(cls) -> Nvml | None:
        """Return the first GPU; None where the library or a GPU is missing."""
        try:
            return cls(ctypes.CDLL(LIBRARY))
        except (OSError, AttributeError):
            return None

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded (Volta and newer)."""
        found = self._integer("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
        return None if found is None else found / 1e3

    def watts(self) -> float | None:
        """Return the power that the board draws."""
        found = self._integer("nvmlDeviceGetPowerUsage", ctypes.c_uint())
        return None if found is None else found / 1e3

    def temperature(self) -> float | None:
        """Return that of the GPU in degrees Celsius."""
        found = self._integer("nvmlDeviceGetTemperature", ctypes.c_uint(), _TEMPERATURE_GPU)
        return None if found is None else float(found)

    def megahertz(self) -> float | None:
        """Return the graphics clock."""
        found = self._integer("nvmlDeviceGetClockInfo", ctypes.c_uint(), _CLOCK_GRAPHICS)
        return None if found is None else float(found)

    def throttled(self) -> bool | None:
        """Whether heat or power holds the clocks down."""
        name = "nvmlDeviceGetCurrentClocksThrottleReasons"
        found = self._integer(name, ctypes.c_ulonglong())
        return None if found is None else bool(found & _SLOWED)

    def used_bytes(self) -> int | None:
        """Return the device memory that all processes have."""
        memory = _Memory()
        ok = self._ask("nvmlDeviceGetMemoryInfo", ctypes.byref(memory))
        return int(memory.used) if ok else None

    def _integer(
        self, function: str, value: ctypes.c_uint | ctypes.c_ulonglong, *selector: int
    ) -> int | None:
        return value.value if self._ask(function, *selector, ctypes.byref(value)) else None

    def _ask(self, function: str, *arguments: object) -> bool:
        """Call a function of the device; False where it is missing or not supported."""
        ask: Callable[..., int] | None = getattr(self._library, function, None)
        return ask is not None and ask(self._device, *arguments) == 0
