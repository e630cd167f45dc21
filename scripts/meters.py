"""What reading the meters costs: each one, and all of them around a block.

    python -m scripts.meters

Microseconds of one reading in a process that does nothing else, of this very process as the worker.
They pass before and after a block, while every worker is stopped; no timed call sees them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from suites.measure.energy import energy_meters
from suites.measure.meters.meter import Meter, why_not
from suites.measure.meters.pressure import Pressure
from suites.measure.meters.speed import Yardstick
from suites.measure.meters.surroundings import Surroundings, meters

READINGS = 2000


def microseconds(call: Callable[[], object]) -> str:
    """Median and 95th percentile of many calls."""
    times = np.empty(READINGS)
    for i in range(READINGS):
        start = time.perf_counter_ns()
        call()
        times[i] = (time.perf_counter_ns() - start) / 1e3
    middle, high = np.quantile(times, [0.5, 0.95])
    return f"{middle:.0f} | {high:.0f}"


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    around: Sequence[Meter] = meters(os.getpid(), "cpu", 1.0, yardstick=Yardstick(cores))
    apart: Sequence[Meter] = [Pressure(), *energy_meters("cpu")]
    threads = len(list(Path("/proc/self/task").iterdir()))
    machine = f"{os.cpu_count()} CPUs, a worker of {threads} threads"
    print(f"{machine}, {READINGS} readings each, {time.strftime('%Y-%m-%d')}\n")
    print("| meter | read | median, us | 95 %, us |")
    print("|---|---|---|---|")
    for when, group in (("around a block", around), ("around a phase", apart)):
        for meter in group:
            reason = why_not(meter)
            cost = reason + " |" if reason else microseconds(meter.read)
            print(f"| {meter.name} | {when} | {cost} |")
    print(f"| all that can be read | around a block | {microseconds(Surroundings(around).read)} |")


if __name__ == "__main__":
    main()
