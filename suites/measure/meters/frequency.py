"""How fast the CPUs are clocked just after a block, while they are still warm from it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from suites.measure.meters import kernel
from suites.measure.meters.meter import Seen, Unreadable


class Frequency:
    """The fastest CPU's clock: the one that was just busy, for idle ones are slower.

    From ``cpufreq/scaling_cur_freq`` of the CPUs that this process may use, else from
    ``/proc/cpuinfo``. A block is disturbed by ``frequency`` where it fell behind the cell's own
    other blocks (``block.causes``): which clock is the right one only they can tell.
    """

    name = "frequency"
    covers = (
        "clock of the fastest usable CPU just after a block, not its mean over the block; a "
        "virtual machine is told a constant, which is no reading"
    )

    def __init__(self, root: Path = Path("/"), cpus: Iterable[int] | None = None) -> None:
        usable = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
        folder = root / "sys/devices/system/cpu"
        files = [folder / f"cpu{cpu}/cpufreq/scaling_cur_freq" for cpu in usable]
        self._files = [file for file in files if file.exists()]
        self._info = root / "proc/cpuinfo"

    def read(self) -> float:
        """MHz."""
        if self._files:
            return max(map(kernel.number, self._files)) / 1e3  # kHz
        told = kernel.fields(self._info)
        if "hypervisor" in told.get("flags", "").split():
            raise Unreadable(
                "a virtual machine without cpufreq: /proc/cpuinfo has a constant there"
            )
        try:
            return max(
                float(line.partition(":")[2])
                for line in kernel.text(self._info).splitlines()
                if line.startswith("cpu MHz")
            )
        except ValueError:
            raise Unreadable("neither cpufreq nor /proc/cpuinfo tells a frequency") from None

    def between(self, before: float, after: float, seconds: float) -> Seen:
        return Seen({"machine_frequency_mhz": after})
