"""How long somebody on the machine waited for a CPU (pressure stall information)."""

from __future__ import annotations

from pathlib import Path

from suites.measure.meters import kernel
from suites.measure.meters.meter import Seen, Unreadable


class Pressure:
    """Microseconds in which at least one runnable task had no CPU: ``some total=`` of
    ``/proc/pressure/cpu`` (Linux 4.20, ``CONFIG_PSI``).

    The kernel renews the count every two seconds: it is read around a whole phase, not a block.
    """

    name = "pressure"
    covers = (
        "share of the time of a whole phase in which some task of the machine waited for a CPU, "
        "renewed every two seconds; a worker with more threads than cores raises it by itself"
    )

    def __init__(self, root: Path = Path("/")) -> None:
        self._file = root / "proc/pressure/cpu"

    def read(self) -> int:
        for line in kernel.text(self._file).splitlines():
            kind, *pairs = line.split() or [""]
            total = dict(pair.partition("=")[::2] for pair in pairs).get("total", "")
            if kind == "some" and total.isdecimal():
                return int(total)
        raise Unreadable(f"{self._file} has no 'some ... total='")

    def between(self, before: int, after: int, seconds: float) -> Seen:
        if after < before:
            raise Unreadable(f"{self._file} fell")
        return Seen({"machine_pressure": min(1.0, (after - before) / 1e6 / seconds)})
