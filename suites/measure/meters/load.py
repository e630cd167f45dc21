"""CPU time that other processes took, and that the hypervisor gave to other machines."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from suites.measure.meters import kernel
from suites.measure.meters.meter import Seen, Unreadable

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
"""The unit of ``/proc/stat``: 10 ms on nearly every machine."""
FORGIVEN_TICKS = 2
"""The kernel counts a whole tick for whoever runs when it strikes: one too many at either end."""


class Load(NamedTuple):
    """CPU seconds since boot."""

    others: float
    """Of everybody but the workers and this process, stolen time included."""
    stolen: float


class OtherLoad:
    """Others' CPU time from ``/proc/stat``, less that of the workers measured and of this process.

    A block is disturbed by ``load`` where others used more than ``cores`` cores in it.
    """

    name = "load"
    covers = (
        "CPU time of all processes and of the hypervisor's other machines, less the worker's and "
        "Assay's own; counted in ticks of 10 ms, of which two are forgiven"
    )

    def __init__(self, workers: Iterable[int], cores: float, root: Path = Path("/")) -> None:
        self._cores = cores
        self._stat = root / "proc/stat"
        self._own = [root / f"proc/{pid}/stat" for pid in (*workers, os.getpid())]

    def read(self) -> Load:
        # cpu user nice system idle iowait irq softirq steal guest guest_nice; the guests' time is
        # already in user and nice.
        line = kernel.text(self._stat).split("\n", 1)[0]
        try:
            user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
        except ValueError:
            raise Unreadable(f"{self._stat} does not begin with CPU times") from None
        busy = user + nice + system + irq + softirq + steal
        own = sum(map(_ticks, self._own))
        return Load((busy - own) * TICK_SECONDS, steal * TICK_SECONDS)

    def between(self, before: Load, after: Load, seconds: float) -> Seen:
        # Rounding, or a machine that moved to another host, can make a counter fall.
        others = max(0.0, after.others - before.others)
        stolen = max(0.0, after.stolen - before.stolen)
        disturbed = others > self._cores * seconds + FORGIVEN_TICKS * TICK_SECONDS
        return Seen(
            {"machine_others_cores": others / seconds, "machine_steal_cores": stolen / seconds},
            ("load",) if disturbed else (),
        )


def _ticks(stat: Path) -> int:
    """User and system time of a process, all its threads."""
    # The name, in parentheses, may hold spaces and parentheses itself.
    cells = kernel.text(stat).rpartition(")")[2].split()
    try:
        return int(cells[11]) + int(cells[12])
    except (ValueError, IndexError):
        raise Unreadable(f"{stat} does not tell CPU times") from None
