"""How often a CPU was taken from the worker's threads, and how long they waited for one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from suites.measure.meters import kernel
from suites.measure.meters.meter import Seen, Unreadable

SWITCHES = re.compile(r"\nvoluntary_ctxt_switches:\s+(\d+)\nnonvoluntary_ctxt_switches:\s+(\d+)")


class Counts(NamedTuple):
    """Of one thread since it began."""

    voluntary: int
    """Switches in which it waited by itself: for a lock, a timer, or the next request."""
    forced: int
    """Switches in which it was runnable and had to make room."""
    delayed_ns: int | None
    """Runnable without a CPU. None where the kernel does not keep it."""


class Scheduling:
    """Context switches (``/proc/PID/task/*/status``) and run-queue delay (``.../schedstat``, its
    second number) of every thread of the worker.

    Threads that began or ended in between are left out: their counts are not a difference.
    """

    name = "scheduling"
    covers = (
        "context switches of the worker's threads and their wait for a CPU, re-warming calls and "
        "the request itself included; forced switches and waiting are the sign of a neighbour, or "
        "of more threads than cores"
    )

    def __init__(self, worker: int, root: Path = Path("/")) -> None:
        self._threads = root / f"proc/{worker}/task"

    def read(self) -> dict[str, Counts]:
        try:
            threads = [thread.name for thread in self._threads.iterdir()]
        except OSError as error:
            raise Unreadable(f"{self._threads}: {(error.strerror or '').lower()}") from error
        found = {}
        for thread in threads:
            try:
                found[thread] = _counts(self._threads / thread)
            except Unreadable:
                continue  # it has just ended
        if not found:
            raise Unreadable(f"{self._threads} tells no context switches")
        return found

    def between(self, before: dict[str, Counts], after: dict[str, Counts], seconds: float) -> Seen:
        pairs = [(before[thread], after[thread]) for thread in before.keys() & after.keys()]
        voluntary = sum(new.voluntary - old.voluntary for old, new in pairs)
        forced = sum(new.forced - old.forced for old, new in pairs)
        figures = {
            "machine_switches_per_s": max(0, voluntary) / seconds,
            "machine_preemptions_per_s": max(0, forced) / seconds,
        }
        delays = [
            new.delayed_ns - old.delayed_ns
            for old, new in pairs
            if new.delayed_ns is not None and old.delayed_ns is not None
        ]
        if delays:
            figures["machine_waiting_cores"] = max(0, sum(delays)) / 1e9 / seconds
        return Seen(figures)


def _counts(thread: Path) -> Counts:
    told = SWITCHES.search(kernel.text(thread / "status"))
    if told is None:
        raise Unreadable(f"{thread} tells no context switches")
    try:
        delayed = int(kernel.text(thread / "schedstat").split()[1])
    except (Unreadable, IndexError, ValueError):
        delayed = None
    return Counts(int(told[1]), int(told[2]), delayed)
