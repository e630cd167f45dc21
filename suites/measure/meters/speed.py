"""How fast the machine is by itself, told by a fixed piece of work.

A virtual machine's cores slow down when others use what they share with it: the other thread of a
physical core, its caches. The guest sees no load, no stolen time and no lower frequency; it sees
its own work take longer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

from runtimes.doctor import cpu
from suites.measure.meters.meter import Seen, Unreadable

PASSES = 3
SLOW = 0.9
"""Share of its own speed below which the machine disturbs a block: readings of an undisturbed one
differ by a few per cent."""
REFERENCE_QUANTILE = 0.25
FEWEST_READINGS = 20
"""That a run needs before its own readings say what the machine can do."""
REMEMBERED_RUNS = 20
TOGETHER_S = 2.0
"""That one thread waits for the others to begin: a passing neighbour keeps them milliseconds."""


class Yardstick:
    """Two pieces of work, on as many threads at once as a session uses: one is bound by a core's
    arithmetic (products of small matrices), one by its second-level cache (sums over 128 KiB).

    The machine's own speed is what a quarter of a run's readings reach, in the median of this run
    and the last ``REMEMBERED_RUNS`` on this machine: a run may lie in a slow hour altogether, or in
    a lucky one.
    """

    def __init__(self, threads: int, remembered: Path | None = None) -> None:
        """``remembered`` is the file in which runs tell the next ones what they saw."""
        self._file = remembered
        self._readings: list[np.ndarray] = []
        self._last: np.ndarray | None = None
        self._earlier = _load(remembered)
        cpus = sorted(os.sched_getaffinity(0))[:threads]
        self._pool = ThreadPoolExecutor(len(cpus), "yardstick")
        self._together = threading.Barrier(len(cpus), timeout=TOGETHER_S)
        self._places = [(cpu, _works()) for cpu in cpus]

    @classmethod
    def of_machine(cls, threads: int, folder: Path) -> Yardstick:
        """One that remembers in ``folder`` what so many threads reach on this machine: another
        processor, name of the machine, NumPy or number of threads is another memory."""
        told = f"{cpu()['model']} {platform.node()} {np.__version__} {threads} {PASSES}"
        name = hashlib.sha256(told.encode()).hexdigest()[:12]
        return cls(threads, folder / f"yardstick-{name}.json")

    def read(self, counts: bool = True) -> np.ndarray:
        """Nanoseconds of either piece on the slowest thread, in the fastest of a few passes:
        ``(2,)``. Takes about a millisecond. What slows a machine for seconds slows every pass; an
        interrupt, or the other thread's turn at Python's lock, some of them. One that does not
        ``count`` says nothing of what the machine reaches.

        Raises Unreadable where a thread cannot have its core, or not in time."""
        passes = [self._pool.submit(self._pass, place) for place in self._places]
        wait(passes)
        failures = [error for each in passes if (error := each.exception()) is not None]
        if failures:
            self._together = threading.Barrier(len(self._places), timeout=TOGETHER_S)
            told = next((each for each in failures if isinstance(each, OSError)), failures[0])
            raise Unreadable(f"no thread on each core at once: {str(told) or 'too late'}")
        self._last = np.max([each.result() for each in passes], axis=0)
        if counts:
            self._readings.append(self._last)
        return self._last

    def speed(self, reading: np.ndarray) -> float:
        """Of the piece that suffers most, as a share of the machine's own speed; above 1 where it
        is faster than usual. NaN as long as nothing is known of the machine."""
        own = self._own()
        return math.nan if own is None else float(np.min(own / reading))

    @property
    def last(self) -> float:
        """The speed at the last reading; NaN before."""
        return math.nan if self._last is None else self.speed(self._last)

    def remember(self) -> None:
        """Tell later runs what this one saw, if it saw enough and there is room for it."""
        if self._file is None or len(self._readings) < FEWEST_READINGS:
            return
        with contextlib.suppress(OSError):
            self._write(self._file)

    def _write(self, file: Path) -> None:
        runs = [*self._earlier, self._quartile()][-REMEMBERED_RUNS:]
        draft = file.with_name(f".{os.getpid()}-{file.name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps([run.tolist() for run in runs]))
        draft.replace(file)

    def _pass(self, place: tuple[int, tuple[Callable[[], object], ...]]) -> np.ndarray:
        cpu, works = place
        try:
            # Of this thread alone. Whoever is woken may otherwise begin on the core of who woke it.
            os.sched_setaffinity(0, {cpu})
        except OSError:  # the core was taken away: nobody need wait for this thread
            self._together.abort()
            raise
        now = time.perf_counter_ns
        times = np.empty((PASSES, len(works)))
        for number in range(PASSES):
            for piece, work in enumerate(works):
                # Two threads that share a physical core slow down only while both work.
                self._together.wait()
                start = now()
                work()
                times[number, piece] = now() - start
        return times.min(axis=0)

    def _quartile(self) -> np.ndarray:
        return np.quantile(np.array(self._readings), REFERENCE_QUANTILE, axis=0)

    def _own(self) -> np.ndarray | None:
        known = [*self._earlier]
        if len(self._readings) >= FEWEST_READINGS:
            known.append(self._quartile())
        return np.median(known, axis=0) if known else None


def _works() -> tuple[Callable[[], object], Callable[[], object]]:
    # Long calls, so that threads that start a little apart overlap all the same, without Python's
    # lock; and matrices so small that no BLAS spreads their product over threads of its own.
    matrices, factor = np.ones((24, 64, 64), np.float32), np.ones((64, 64), np.float32)
    products = np.empty_like(matrices)
    # The same 128 KiB again and again.
    terms = np.broadcast_to(np.ones(32768, np.float32), (36, 32768))
    total = np.empty(32768, np.float32)
    return (
        lambda: np.matmul(matrices, factor, out=products),
        lambda: np.add.reduce(terms, axis=0, out=total),
    )


def _load(file: Path | None) -> list[np.ndarray]:
    try:
        told = [] if file is None else json.loads(file.read_text())
        return [np.array(run, float) for run in told if len(run) == 2 and min(run) > 0]
    except (OSError, ValueError, TypeError):
        return []  # not there, or not ours: the run finds out by itself


class Speed:
    """The yardstick before and after a block. A block is disturbed by ``speed`` where the machine
    was slower than ``SLOW`` at either end."""

    name = "speed"
    covers = (
        "a fixed piece of work on all threads at once, over what the machine usually reaches: "
        "what others take of shared cores and caches without being seen; at a block's ends only"
    )

    def __init__(self, yardstick: Yardstick) -> None:
        self._yardstick = yardstick

    def read(self) -> np.ndarray:
        return self._yardstick.read()

    def between(self, before: np.ndarray, after: np.ndarray, seconds: float) -> Seen:
        slower = min(self._yardstick.speed(before), self._yardstick.speed(after))
        if math.isnan(slower):
            raise Unreadable("it is not known yet how fast this machine is")
        return Seen({"machine_speed": slower}, ("speed",) if slower < SLOW else ())
