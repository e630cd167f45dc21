"""How hot the processor is just after a block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from suites.measure.meters import kernel
from suites.measure.meters.meter import Seen, Unreadable

CHIPS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal", "scpi_sensors"})
"""hwmon drivers that measure a processor; disks and radios are somebody else's heat."""
ZONES = ("x86_pkg_temp", "cpu", "soc")
"""Beginnings of the types of thermal zones that do."""


class Temperature:
    """The hottest sensor of the processor: hwmon, else the thermal zones."""

    name = "temperature"
    covers = "hottest sensor of the processor just after a block, whoever heated it"

    def __init__(self, root: Path = Path("/")) -> None:
        self._sensors = list(_hwmon(root)) or list(_zones(root))

    def read(self) -> float:
        """Degrees Celsius."""
        if not self._sensors:
            raise Unreadable("no sensor of the processor in /sys/class/hwmon or /sys/class/thermal")
        return max(map(kernel.number, self._sensors)) / 1e3

    def between(self, before: float, after: float, seconds: float) -> Seen:
        return Seen({"machine_temperature_c": max(before, after)})


def _hwmon(root: Path) -> Iterator[Path]:
    for chip in kernel.numbered(root / "sys/class/hwmon", "hwmon*"):
        if _word(chip / "name") in CHIPS:
            yield from kernel.numbered(chip, "temp*_input")


def _zones(root: Path) -> Iterator[Path]:
    for zone in kernel.numbered(root / "sys/class/thermal", "thermal_zone*"):
        if _word(zone / "type").lower().startswith(ZONES):
            yield zone / "temp"


def _word(path: Path) -> str:
    try:
        return kernel.text(path).strip()
    except Unreadable:
        return ""
