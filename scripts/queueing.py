"""Simulated queues of which the truth is known exactly: what is said of load is held to them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from runtimes.serving import NOT_SERVED
from suites.load.loaded_cell import BACKLOG_SHARE
from suites.measure.load.arrivals import arrivals
from suites.measure.load.slo import Slo
from suites.measure.load.trace import Trace

SERVICE_NS = 1_000_000
SERVED_PER_S = 1e9 / SERVICE_NS


def lindley(
    due: np.ndarray, service: np.ndarray, end_ns: int, limit_ns: int | None = None
) -> Trace:
    """One slot, first come first served: ``start_i = max(due_i, start_{i-1} + service_{i-1})``.

    Unrolled, with ``S_i`` the work of all requests before ``i``, it is ``S_i + max(due_j - S_j)``
    over ``j <= i``. Times are int64 nanoseconds, ``(n,)``. What could begin only after ``limit_ns``
    is given up.
    """
    before = np.cumsum(service) - service
    start = before + np.maximum.accumulate(due - before)
    finish = start + service
    if limit_ns is not None:
        finish[start > limit_ns] = NOT_SERVED
        start[start > limit_ns] = NOT_SERVED
    return Trace(due, start, finish, end_ns)


def episode(
    rate: float,
    seconds: float,
    seed: int | Sequence[int],
    burstiness: float = 1.0,
    *,
    exponential: bool = False,
) -> Trace:
    """What a session would have done whose calls take 1 ms, or that on average."""
    due = arrivals(rate, burstiness, seed, seconds=seconds)
    end_ns = round(seconds * 1e9)
    service = np.full(len(due), SERVICE_NS)
    if exponential:
        (random,) = np.random.default_rng(seed).spawn(1)  # not the arrivals' own numbers
        service = random.exponential(SERVICE_NS, len(due)).astype(np.int64)
    return lindley(due, service, end_ns, end_ns + round(BACKLOG_SHARE * end_ns))


def waits_at_most(services: float, load: float) -> float:
    """Share of an M/D/1 queue's requests that wait no longer than so many service times. Exact.

    Of ``k`` service times, the smallest whole number above ``services``: with ``Q_m`` the
    probability that at most ``m`` requests wait, and ``N`` a Poisson number of mean ``load (k -
    services)``, it is ``E[Q_{k-1-N}]`` (Franx 2001, *A simple solution for the M/D/c waiting time
    distribution*, with one server). How many an answer leaves in the system rises above ``n`` as
    often as it falls from ``n + 1``, which it does when nobody came during the call: that gives the
    share of ``n + 1`` from those up to ``n``. No term is negative, so nothing cancels.
    """
    k = math.floor(services) + 1
    more = stats.poisson.sf(np.arange(k), load)
    inside = np.zeros(k + 1)
    inside[0] = 1 - load
    for n in range(k):
        rises = inside[0] * more[n] + inside[1 : n + 1] @ more[n:0:-1]
        inside[n + 1] = rises * math.exp(load)
    at_most = np.cumsum(inside)[1:]
    return float(stats.poisson.pmf(np.arange(k), load * (k - services)) @ at_most[::-1])


def true_e2el(load: float, p: float) -> float:
    """The quantile in nanoseconds."""
    if p <= 1 - load:
        return SERVICE_NS  # nobody waits
    most = 1.0
    while waits_at_most(most, load) < p:
        most *= 2
    wait = optimize.brentq(lambda services: waits_at_most(services, load) - p, 0, most)
    return SERVICE_NS * (1 + float(wait))


def true_capacity(slo: Slo) -> float:
    """The highest rate that keeps it, in requests a second."""
    waited = slo.e2el_ns / SERVICE_NS - 1
    load = optimize.brentq(lambda load: waits_at_most(waited, load) - slo.share, 1e-6, 1 - 1e-6)
    return SERVED_PER_S * float(load)


def bursty_objective(capacity: float, share: float, burstiness: float) -> Slo:
    """The one whose capacity that is, with exponential calls and gamma gaps (GI/M/1). Exact.

    The time from arrival to answer is exponential with the rate ``(1 - s) / service``, where ``s``
    is the root below 1 of ``s = E[exp(-(1 - s) gap / service)]`` (Kleinrock 1975, *Queueing
    Systems* I, 6.4).
    """
    scale = SERVED_PER_S / (capacity * burstiness)  # of a gap, in service times
    s = optimize.brentq(lambda s: s - (1 + (1 - s) * scale) ** -burstiness, 0, 1 - 1e-6)
    return Slo(round(-math.log(1 - share) * SERVICE_NS / (1 - float(s))), share)
