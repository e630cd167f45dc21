"""How often the processor slowed itself down to stay cool."""

from __future__ import annotations

from pathlib import Path

from suites.measure.meters import kernel
from suites.measure.meters.meter import Seen, Unreadable


class Throttling:
    """Counts of thermal events, ``thermal_throttle/*_throttle_count`` of every CPU (Intel only).

    A block is disturbed by ``throttled`` where one of them rose.
    """

    name = "throttling"
    covers = (
        "thermal throttling events of all cores and packages, whoever heated them; a package's "
        "event is counted once; power limits are not told"
    )

    def __init__(self, root: Path = Path("/")) -> None:
        self._cpus = root / "sys/devices/system/cpu"
        self._cores: list[Path] = []
        packages: dict[str, Path] = {}
        for cpu in kernel.numbered(self._cpus, "cpu[0-9]*"):
            core = cpu / "thermal_throttle/core_throttle_count"
            package = cpu / "thermal_throttle/package_throttle_count"
            if core.exists():
                self._cores.append(core)
            if package.exists():
                packages.setdefault(_package(cpu), package)
        self._files = [*self._cores, *packages.values()]

    def read(self) -> int:
        if not self._files:
            raise Unreadable(f"no thermal_throttle below {self._cpus}: the processor counts none")
        return sum(map(kernel.number, self._files))

    def between(self, before: int, after: int, seconds: float) -> Seen:
        if after < before:
            raise Unreadable("the count of throttling events fell")
        risen = after - before
        return Seen({"machine_throttle_events": risen}, ("throttled",) if risen else ())


def _package(cpu: Path) -> str:
    try:
        return kernel.text(cpu / "topology/physical_package_id").strip()
    except Unreadable:
        return cpu.name
