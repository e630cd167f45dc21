"""Saturation: more is offered than can be served, and there is no latency to be told.

In a queue that grows, the latency is a matter of how long one looks: it has no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from suites.measure.load.trace import Trace

OCCUPIED = 0.98
"""Share of the kept time without a free slot from which a session counts as saturated, if its
backlog grew.

The number of requests that arrive is random, so an achieved rate below the nominal one says
nothing. What is looked at is the realised schedule: a session that can serve what did arrive stands
idle again and again. Over ``n`` Poisson arrivals its occupied share is its load ``u`` with a
standard deviation of about ``u / sqrt(n)``: with 480 kept arrivals a load of 0.9 reaches 0.98 at
two of them, and its backlog must have grown as well. Of 500 simulated cells one did.

The one thing of the nominal rate that is used has little noise of its own: the rate times the mean
call. From a load of 1 on no queue has an end, whatever a short schedule happened to bring; that
finds the sessions that are offered a few per cent too much, of which the occupied share finds 92 %
at 1.05 with 600 arrivals an episode, and 42 % with 150 (``scripts/queues.py``)."""


@dataclass(frozen=True)
class Saturation:
    """How what was served compares with what was offered, in the kept time of all episodes."""

    offered_per_s: float
    """Arrivals, as they were realised."""
    achieved_per_s: float
    """Answers that were finished in the same time."""
    backlog: int
    """Largest number of unanswered requests at the end of an episode's arrivals."""
    grown: int
    """By how much the backlog grew from the ramp-up's end to there, summed over the episodes."""
    occupied: float
    """Share of the time without a free slot."""
    load: float
    """The rate that was asked for, times the mean call, over the slots."""
    given_up: int
    """Requests that were not served by the limit of their episode, ramp-up included."""

    @property
    def ratio(self) -> float | None:
        """Achieved over offered rate; None where nothing arrived."""
        return self.achieved_per_s / self.offered_per_s if self.offered_per_s else None

    @property
    def saturated(self) -> bool:
        """Requests that were given up do not do it alone: one stall at an episode's end leaves some
        behind in a session that serves what is offered. Its slots or its load must agree."""
        left_behind = self.grown > 0 or self.given_up > 0
        return self.load >= 1 or (self.occupied >= OCCUPIED and left_behind)

    @property
    def reason(self) -> str:
        """One line; empty where it is not saturated."""
        if not self.saturated:
            return ""
        text = (
            f"saturated: {self.achieved_per_s:.1f} of {self.offered_per_s:.1f} requests/s were "
            f"served and the backlog reached {self.backlog} (no slot free for "
            f"{100 * self.occupied:.0f} % of the time; {self.load:.2f} times the work it can do)"
        )
        return text + (f"; {self.given_up} requests were given up" if self.given_up else "")


def saturation(traces: Sequence[Trace], rate: float) -> Saturation:
    """Of one cell's episodes, all at the same ``rate`` in requests a second."""
    seconds = sum(trace.kept_ns for trace in traces) / 1e9
    arrived = sum(int(trace.kept.sum()) for trace in traces)
    answered = sum(
        int(((trace.finish >= trace.ramp_ns) & (trace.finish < trace.end_ns)).sum())
        for trace in traces
    )
    calls = np.concatenate([(trace.finish - trace.start)[trace.served] for trace in traces])
    call_s = float(calls.mean()) / 1e9 if len(calls) else 0.0
    return Saturation(
        offered_per_s=arrived / seconds,
        achieved_per_s=answered / seconds,
        backlog=max(trace.backlog(trace.end_ns) for trace in traces),
        grown=sum(trace.backlog(trace.end_ns) - trace.backlog(trace.ramp_ns) for trace in traces),
        occupied=sum(trace.occupied_ns() for trace in traces) / sum(t.kept_ns for t in traces),
        load=rate * call_s / traces[0].slots,
        given_up=sum(int((~trace.served).sum()) for trace in traces),
    )
