"""What became of the requests of one episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from runtimes.serving import NOT_SERVED

RAMP_UP = 0.2
"""Share of an episode whose requests are discarded. Each episode begins with an empty queue, in
which the first requests wait less than later ones. A queue forgets its beginning like
``exp(-t / T)`` with ``T`` about ``service / (1 - sqrt(utilisation))^2`` (the M/M/1 queue; Cohen
1982): 12 service times at a utilisation of 0.5, 90 at 0.8, 380 at 0.9. A fifth of an episode of 500
service times is about one memory at 0.8."""


@dataclass(frozen=True)
class Trace:
    """One episode's requests in order of arrival; int64 nanoseconds from its beginning, ``(n,)``.

    ``start`` and ``finish`` are ``NOT_SERVED`` for a request that was given up.
    """

    arrival: np.ndarray
    """When it was meant to arrive, not when somebody found the time to send it."""
    start: np.ndarray
    finish: np.ndarray
    end_ns: int
    """Until when requests arrived."""
    slots: int = 1

    @property
    def ramp_ns(self) -> int:
        """Requests before it are in no figure."""
        return int(RAMP_UP * self.end_ns)

    @property
    def kept_ns(self) -> int:
        """How long requests arrived that are kept."""
        return self.end_ns - self.ramp_ns

    @cached_property
    def kept(self) -> np.ndarray:
        """bool: arrived after the ramp-up."""
        return self.arrival >= self.ramp_ns

    @cached_property
    def served(self) -> np.ndarray:
        """bool."""
        return self.finish != NOT_SERVED

    @cached_property
    def completed(self) -> np.ndarray:
        """bool: kept and served."""
        return self.kept & self.served

    @property
    def e2el_ns(self) -> np.ndarray:
        """Of completed requests: from intended arrival to answer."""
        return (self.finish - self.arrival)[self.completed]

    @property
    def queue_ns(self) -> np.ndarray:
        """Of completed requests: from intended arrival to the beginning of the call."""
        return (self.start - self.arrival)[self.completed]

    @property
    def service_ns(self) -> np.ndarray:
        """Of completed requests: the call alone."""
        return (self.finish - self.start)[self.completed]

    def backlog(self, at_ns: int) -> int:
        """Requests that had arrived by then and were not answered."""
        return int((self.arrival <= at_ns).sum() - (self.served & (self.finish <= at_ns)).sum())

    @cached_property
    def _steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Times at which the number of requests in the system changes, and the number from then.

        Intervals are half open: who leaves at a moment is gone before the next one comes.
        """
        leave = self.finish[self.served]
        times = np.concatenate([leave, self.arrival])
        change = np.concatenate([np.full(len(leave), -1), np.full(len(self.arrival), 1)])
        order = np.argsort(times, kind="stable")
        return times[order], np.cumsum(change[order])

    @property
    def max_concurrent(self) -> int:
        """Most requests in the system at once, waiting ones included."""
        return int(self._steps[1].max(initial=0))

    def occupied_ns(self) -> int:
        """How much of the kept time no slot stood free for want of a request."""
        times, inside = self._steps
        edges = np.clip(np.append(times, self.end_ns), self.ramp_ns, self.end_ns)
        return int(np.diff(edges)[inside >= self.slots].sum())

    def busy_ns(self) -> int:
        """Time of the slots spent in calls during the kept time, summed over the slots."""
        start, finish = (
            np.clip(each[self.served], self.ramp_ns, self.end_ns)
            for each in (self.start, self.finish)
        )
        return int((finish - start).sum())


def censored(traces: Sequence[Trace]) -> np.ndarray:
    """Times from intended arrival to answer of all kept requests in nanoseconds, float64, in order.

    One that was given up has a time beyond the longest of any: it had waited for as long as its
    episode's backlog was served, and how long it would have taken is not known.
    """
    longest = max(int((t.finish - t.arrival).max(initial=0)) for t in traces) + 1
    times = [np.where(t.served, t.finish - t.arrival, longest)[t.kept] for t in traces]
    return np.concatenate(times).astype(np.float64)
