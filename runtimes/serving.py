"""Requests served as they arrive: by a schedule that is known beforehand, or by clients in a loop.

Because the schedule is known, nobody has to generate it while the clock runs: a free slot takes
the next request in order of arrival, waits until it is due, and calls. The queue is what is due and
not yet begun. A request that a stall kept waiting keeps the arrival that it was meant to have, so
that the stall is in its latency (no coordinated omission).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NOT_SERVED = -1
SPIN_NS = 300_000
"""The last part of a wait is spun, since a sleep ends some 60 us late and on a busy machine later.
Only with one slot: a spinning thread would keep the others from Python for milliseconds."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Served:
    """Requests in order of arrival; int64 nanoseconds from the episode's beginning, ``(n,)``."""

    arrival: np.ndarray
    start: np.ndarray
    """Just before the call; ``NOT_SERVED`` for a request that was given up."""
    finish: np.ndarray
    """When the call's result was there; ``NOT_SERVED`` likewise."""


def serve_open(
    calls: Sequence[Call], wait: Callable[[], None], arrivals: np.ndarray, limit_ns: int
) -> Served:
    """Serve a schedule, int64 nanoseconds, rising. One slot for each of ``calls``.

    ``wait`` returns when a call's result is there (``Clock.wait``). No request is begun later than
    ``limit_ns``: what is left then is given up. Raises what a call raises.
    """
    due = arrivals.tolist()
    start = np.full(len(due), NOT_SERVED, np.int64)
    finish = np.full(len(due), NOT_SERVED, np.int64)
    line = iter(range(len(due)))
    taking = threading.Lock()
    spin = SPIN_NS if len(calls) == 1 else 0
    origin = time.perf_counter_ns()

    def slot(call: Call, failed: threading.Event) -> None:
        while not failed.is_set():
            with taking:
                number = next(line, None)
            if number is None:
                return
            begun = _wait_until(origin + due[number], spin) - origin
            if begun > limit_ns:
                return
            call()
            wait()
            finish[number] = time.perf_counter_ns() - origin
            start[number] = begun

    _run(slot, calls)
    return Served(arrivals, start, finish)


def serve_closed(
    calls: Sequence[Call],
    wait: Callable[[], None],
    concurrency: int,
    limit_ns: int | None,
    requests: int | None,
) -> Served:
    """Serve ``concurrency`` clients, each of which sends when its last answer has come.

    They send until ``limit_ns``, or ``requests`` in all; what they have sent is served. Raises
    what a call raises.
    """
    waiting = deque([0] * concurrency)
    left = None if requests is None else requests - concurrency
    told: list[tuple[int, int, int]] = []
    taking = threading.Lock()
    origin = time.perf_counter_ns()

    def slot(call: Call, failed: threading.Event) -> None:
        nonlocal left
        while not failed.is_set():
            with taking:
                if not waiting:
                    return
                arrival = waiting.popleft()
            begun = time.perf_counter_ns() - origin
            call()
            wait()
            ended = time.perf_counter_ns() - origin
            with taking:
                told.append((arrival, begun, ended))
                if (limit_ns is None or ended < limit_ns) and (left is None or left > 0):
                    waiting.append(ended)
                    left = None if left is None else left - 1

    _run(slot, calls)
    columns = np.array(sorted(told), np.int64).reshape(-1, 3)
    return Served(*(np.ascontiguousarray(column) for column in columns.T))


def _wait_until(due_ns: int, spin_ns: int) -> int:
    """Return at ``due_ns`` of ``perf_counter_ns``, or at once; the time at which it returned."""
    while (now := time.perf_counter_ns()) < due_ns:
        if (rest := due_ns - now) > spin_ns:
            time.sleep((rest - spin_ns) / 1e9)
    return now


def _run(slot: Callable[[Call, threading.Event], None], calls: Sequence[Call]) -> None:
    """Run a slot for each call, on this thread where there is one; raise the first failure."""
    failed = threading.Event()
    if len(calls) == 1:
        slot(calls[0], failed)
        return
    failures: list[BaseException] = []

    def guarded(call: Call) -> None:
        try:
            slot(call, failed)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(error)
            failed.set()

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
