"""How a GPU is clocked, how hot it is, and what holds it back, through NVML."""

from __future__ import annotations

from typing import NamedTuple

from runtimes.nvml import NvmlDevice, NvmlUnavailable
from suites.measure.meters.meter import Seen, Unreadable


class State(NamedTuple):
    clock_mhz: int
    power_cap_w: float
    temperature_c: int
    slowed_by: tuple[str, ...]


class Gpu:
    """A block is disturbed by ``gpu-power-cap``, ``gpu-thermal`` and the like (``nvml.SLOWED``)
    where NVML named that reason before or after it."""

    name = "gpu"
    covers = (
        "clock, power cap, temperature and slow-down reasons of the cell's GPU at the two ends of "
        "a block, whoever caused them; a reason that came and went inside is not seen"
    )

    def __init__(self, device: str) -> None:
        self._device: NvmlDevice | None = None
        self._absent = ""
        try:
            self._device = NvmlDevice(device)
        except NvmlUnavailable as error:
            self._absent = str(error)

    def read(self) -> State:
        if self._device is None:
            raise Unreadable(self._absent)
        try:
            return State(
                self._device.clock_mhz(),
                self._device.power_cap_w(),
                self._device.temperature_c(),
                self._device.slowed_by(),
            )
        except NvmlUnavailable as error:
            raise Unreadable(str(error)) from error

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
