"""Energy that a GPU has used, by its own counter."""

from __future__ import annotations

from runtimes.nvml import NvmlDevice
from suites.measure.meters.meter import Seen, Unreadable
from suites.measure.meters.nvml import NvmlMeter


class GpuEnergy(NvmlMeter):
    """``nvmlDeviceGetTotalEnergyConsumption`` of the cell's GPU."""

    name = "gpu-energy"
    covers = "energy of the whole GPU board: every process's, and what it uses while idle"
    period_s = 0.1
    """How often the counter is renewed, at worst (Yang, Adamek & Armour 2024 measured 20 to 100
    ms for NVML's power readings)."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.source = f"nvml: {device}"

    def read(self) -> float:
        """Joules."""
        return self.ask(NvmlDevice.energy_j)

    def between(self, before: float, after: float, seconds: float) -> Seen:
        if after < before:
            raise Unreadable("the driver was loaded again: its energy counter fell")
        return Seen({"energy_j": after - before})
