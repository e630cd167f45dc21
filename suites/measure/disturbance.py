"""CPU time that other processes took while a block was timed, from Linux's ``/proc``.

It is read before and after a block, never during it: two small files, some tens of microseconds.
Times are in clock ticks (10 ms on nearly every machine), which is why ``is_disturbed`` forgives
two of them.
"""

from __future__ import annotations

import os
from pathlib import Path

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
FORGIVEN_TICKS = 2
"""The kernel counts a whole tick for whoever runs when it strikes: one too many at either end."""


class OtherLoad:
    """Reads how much CPU time went to everybody but this process and one worker."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def seconds(self, worker: int) -> float | None:
        """CPU seconds used since boot by others, stolen by the hypervisor included.

        None where the system does not tell: no ``/proc``, or the worker is gone.
        """
        try:
            # cpu user nice system idle iowait irq softirq steal guest guest_nice; the guests' time
            # is already in user and nice.
            line = (self._proc / "stat").read_text().split("\n", 1)[0]
            user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
            own = sum(self._process_ticks(pid) for pid in (worker, os.getpid()))
        except (OSError, ValueError, IndexError):
            return None
        return (user + nice + system + irq + softirq + steal - own) * TICK_SECONDS

    def _process_ticks(self, pid: int) -> int:
        """User and system time of a process, all its threads."""
        text = (self._proc / str(pid) / "stat").read_text()
        # The name, in parentheses, may hold spaces and parentheses itself.
        fields = text.rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


def is_disturbed(others_s: float, elapsed_s: float, cores: float) -> bool:
    """Whether others used more than ``cores`` cores during ``elapsed_s``, beyond tick error."""
    return others_s > cores * elapsed_s + FORGIVEN_TICKS * TICK_SECONDS
