"""How a GPU is clocked, how hot it is, and what holds it back, through NVML."""

from __future__ import annotations

from typing import NamedTuple

from runtimes.nvml import NvmlDevice
from suites.measure.meters.meter import Seen
from suites.measure.meters.nvml import NvmlMeter


class State(NamedTuple):
    clock_mhz: int
    power_cap_w: float
    temperature_c: int
    slowed_by: tuple[str, ...]

    @classmethod
    def of(cls, device: NvmlDevice) -> State:
        return cls(
            device.clock_mhz(), device.power_cap_w(), device.temperature_c(), device.slowed_by()
        )


class Gpu(NvmlMeter):
    """A block is disturbed by ``gpu-power-cap``, ``gpu-thermal`` and the like (``nvml.SLOWED``)
    where NVML named that reason before or after it."""

    name = "gpu"
    covers = (
        "clock, power cap, temperature and slow-down reasons of the cell's GPU at the two ends of "
        "a block, whoever caused them; a reason that came and went inside is not seen"
    )

    def read(self) -> State:
        return self.ask(State.of)

    def between(self, before: State, after: State, seconds: float) -> Seen:
        reasons = dict.fromkeys((*before.slowed_by, *after.slowed_by))
        return Seen(
            {
                "machine_gpu_clock_mhz": after.clock_mhz,
                "machine_gpu_power_cap_w": min(before.power_cap_w, after.power_cap_w),
                "machine_gpu_temperature_c": max(before.temperature_c, after.temperature_c),
            },
            tuple(f"gpu-{reason}" for reason in reasons),
        )
