"""Energy that a GPU has used, by its own counter."""

from __future__ import annotations

from runtimes.nvml import NvmlDevice, NvmlUnavailable
from suites.measure.meters.meter import Seen, Unreadable


class GpuEnergy:
    """``nvmlDeviceGetTotalEnergyConsumption`` of the cell's GPU."""

    name = "gpu-energy"
    covers = "energy of the whole GPU board: every process's, and what it uses while idle"
    period_s = 0.1
    """How often the counter is renewed, at worst (Yang, Adamek & Armour 2024 measured 20 to 100
    ms for NVML's power readings)."""

    def __init__(self, device: str) -> None:
        self.source = f"nvml: {device}"
        self._device: NvmlDevice | None = None
        self._absent = ""
        try:
            self._device = NvmlDevice(device)
        except NvmlUnavailable as error:
            self._absent = str(error)

    def read(self) -> float:
        """Joules."""
        if self._device is None:
            raise Unreadable(self._absent)
        try:
            return self._device.energy_j()
        except NvmlUnavailable as error:
            raise Unreadable(str(error)) from error

    def between(self, before: float, after: float, seconds: float) -> Seen:
        if after < before:
            raise Unreadable("the driver was loaded again: its energy counter fell")
        return Seen({"energy_j": after - before})
