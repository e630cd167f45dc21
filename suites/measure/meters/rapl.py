"""Energy that the processor packages have used, by their own counters (RAPL)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from suites.measure.meters import kernel
from suites.measure.meters.meter import Seen, Unreadable


class Zone(NamedTuple):
    name: str
    counter: Path
    range_uj: int
    """Where the counter begins again at zero."""


class Rapl:
    """Joules of all packages and of their memory (``/sys/class/powercap/intel-rapl:*``, which AMD
    processors have too).

    Left out: ``core`` and ``uncore``, which are parts of a package; ``psys``, which holds it; and
    ``intel-rapl-mmio``, a second counter of the same packages. Reading needs root on most systems
    since CVE-2020-8694.
    """

    name = "rapl"
    covers = (
        "energy of the whole processor packages and their memory: every process's, and what they "
        "use while idle"
    )
    period_s = 0.001
    """How often the counters are renewed."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._folder = root / "sys/class/powercap"
        self._zones: list[Zone] = []
        self._absent = f"{self._folder} has no intel-rapl zone (virtual machines seldom have one)"
        try:
            self._zones = _zones(self._folder)
        except Unreadable as error:
            self._absent = str(error)

    @property
    def source(self) -> str:
        """What is added up, for the row."""
        return "rapl: " + ", ".join(zone.name for zone in self._zones)

    def read(self) -> list[int]:
        """Microjoules of each zone."""
        if not self._zones:
            raise Unreadable(self._absent)
        return [kernel.number(zone.counter) for zone in self._zones]

    def between(self, before: list[int], after: list[int], seconds: float) -> Seen:
        total = 0
        for zone, start, end in zip(self._zones, before, after, strict=True):
            # It begins again once at most: the shortest range lasts minutes at full power.
            total += end - start if end >= start else end - start + zone.range_uj
        return Seen({"energy_j": total / 1e6})


def _zones(folder: Path) -> list[Zone]:
    found = []
    for package in kernel.numbered(folder, "intel-rapl:*"):
        name = kernel.text(package / "name").strip()
        if package.name.count(":") == 1 and name.startswith("package"):
            found.append(_zone(package, name))
            for part in kernel.numbered(folder, f"{package.name}:*"):
                if kernel.text(part / "name").strip() == "dram":
                    found.append(_zone(part, f"{name} dram"))
    return found


def _zone(folder: Path, name: str) -> Zone:
    return Zone(name, folder / "energy_uj", kernel.number(folder / "max_energy_range_uj"))
