"""A queue of known service times, by the Lindley recursion: what a session would have done."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from suites.measure.load.arrivals import arrivals
from suites.measure.load.trace import NOT_SERVED, Trace

MS = 1_000_000


def lindley(
    due: np.ndarray, service: np.ndarray, end_ns: int, limit_ns: int | None = None
) -> Trace:
    """One slot, first come first served: ``start_i = max(arrival_i, finish_{i-1})``."""
    start = np.full(len(due), NOT_SERVED, np.int64)
    finish = start.copy()
    free = 0
    for i, arrival in enumerate(due.tolist()):
        begin = max(arrival, free)
        if limit_ns is not None and begin > limit_ns:
            break
        free = begin + int(service[i])
        start[i], finish[i] = begin, free
    return Trace(due, start, finish, end_ns)


Queue = Callable[..., Trace]


@pytest.fixture(scope="session")
def queue() -> Queue:
    """(arrivals, service times, end, limit=None) -> their trace; int64 nanoseconds."""
    return lindley


@pytest.fixture(scope="session")
def episode() -> Queue:
    """(rate, seconds, seed, burstiness=1) -> an M/D/1 episode (G/D/1 otherwise), 1 ms a call."""
    return _episode


def _episode(rate: float, seconds: float, seed: object, burstiness: float = 1.0) -> Trace:
    due = arrivals(rate, burstiness, seed, seconds=seconds)  # type: ignore[arg-type]
    end = round(seconds * 1e9)
    return lindley(due, np.full(len(due), MS), end, end + end // 2)
