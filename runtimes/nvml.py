"""A GPU as NVIDIA's management library sees it, where there is one.

``nvidia-ml-py`` (module ``pynvml``) is optional and imported when a GPU is first asked about.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

SLOWED = {
    0x04: "power-cap",
    0x08: "hardware-slowdown",
    0x10: "sync-boost",
    0x20: "thermal",
    0x40: "hardware-thermal",
    0x80: "power-brake",
}
"""Bits of ``nvmlClocksEventReasons`` that mean less speed than the settings allow. Left out: idle
(0x01), and clocks that somebody set (0x02, 0x100), which are no disturbance."""


class NvmlUnavailable(Exception):
    """NVML cannot tell, and why, in one line."""


class NvmlDevice:
    """The GPU that CUDA calls ``cuda:N`` in a process of this environment.

    CUDA_VISIBLE_DEVICES is heeded, by index or UUID. Where cards differ, CUDA numbers the fastest
    first and NVML by PCI bus: set CUDA_DEVICE_ORDER=PCI_BUS_ID there.

    Raises NvmlUnavailable, and so does each method whose number this GPU does not tell.
    """

    def __init__(self, device: str, environment: Mapping[str, str] = os.environ) -> None:
        self._nvml = _library()
        kind, _, index = device.partition(":")
        if kind != "cuda" or not (index or "0").isdecimal():
            raise NvmlUnavailable(f"{device} is no NVIDIA GPU")
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        name = index or "0"
        if visible is not None:
            names = [part.strip() for part in visible.split(",") if part.strip()]
            if int(name) >= len(names):
                raise NvmlUnavailable(f"CUDA_VISIBLE_DEVICES={visible} hides {device}")
            name = names[int(name)]
        if name.isdecimal():
            self._handle = self._call("nvmlDeviceGetHandleByIndex", int(name))
        else:
            self._handle = self._call("nvmlDeviceGetHandleByUUID", name)

    def clock_mhz(self) -> int:
        """Of the streaming multiprocessors, now."""
        return self._tell("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM)

    def power_cap_w(self) -> float:
        """The limit in force: the lower of the board's and what somebody set."""
        return self._tell("nvmlDeviceGetEnforcedPowerLimit") / 1e3

    def temperature_c(self) -> int:
        return self._tell("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU)

    def slowed_by(self) -> tuple[str, ...]:
        """What keeps the clock down now, in the words of ``SLOWED``."""
        # The function was renamed with driver 535; older libraries have the old name only.
        new, old = (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        )
        bits = self._tell(new if hasattr(self._nvml, new) else old)
        return tuple(word for bit, word in SLOWED.items() if bits & bit)

    def energy_j(self) -> float:
        """Since the driver was loaded (Volta and later)."""
        return self._tell("nvmlDeviceGetTotalEnergyConsumption") / 1e3

    def process_bytes(self, pids: Collection[int]) -> int:
        """Device memory of these processes, CUDA contexts included. NVML knows processes by their
        number outside of containers: where it lists none of them, that is no zero."""
        found = [
            process.usedGpuMemory
            for process in self._tell("nvmlDeviceGetComputeRunningProcesses")
            if process.pid in pids and process.usedGpuMemory is not None
        ]
        if not found:
            raise NvmlUnavailable("NVML lists no such process; in a container it cannot")
        return sum(found)

    def _tell(self, function: str, *arguments: Any) -> Any:
        return self._call(function, self._handle, *arguments)

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, function)(*arguments)
        except AttributeError:
            raise NvmlUnavailable(f"this nvidia-ml-py has no {function}") from None
        except self._nvml.NVMLError as error:
            raise NvmlUnavailable(f"{function}: {error}") from error


@cache
def _library() -> Any:
    """The module, initialised once a process."""
    try:
        import pynvml
    except ImportError:
        raise NvmlUnavailable("nvidia-ml-py is not installed (pip install nvidia-ml-py)") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(f"NVML does not start: {error}") from error
    return pynvml
