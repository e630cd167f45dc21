"""The proof of what Assay says of load: how often it holds on queues whose truth is known.

    python -m scripts.queues                      # all tables, about three minutes on one core
    python -m scripts.queues --replications 50    # a look

M/D/1 queues (Poisson arrivals, each call takes 1 ms, one slot) are simulated, judged by the code
that judges sessions, and held to the exact distribution of their waiting times. Run it from the
repository's root. Everything is seeded: the same numbers come out again.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from runtimes.serving import NOT_SERVED
from scripts.coverage import Outcome
from suites.load.loaded_cell import BACKLOG_SHARE
from suites.measure.load.arrivals import arrivals
from suites.measure.load.capacity import Capacity, CapacitySearch
from suites.measure.load.figures import LEVELS, Queue, figures
from suites.measure.load.saturation import saturation
from suites.measure.load.slo import Slo
from suites.measure.load.trace import Trace
from suites.measure.quantiles import QuantileEstimate

SERVICE_NS = 1_000_000
SERVED_PER_S = 1e9 / SERVICE_NS
EPISODES = 4
"""Of a cell."""

LOADS = (0.3, 0.6, 0.8, 0.9)
SIZES = (200, 800, 3000)
SATURATION_LOADS = (0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.3)
SATURATION_SIZES = (150, 600, 2000)
FEW = (Slo(20 * SERVICE_NS, 0.7), 0.15, 14)
OBJECTIVES = (
    (Slo(2 * SERVICE_NS, 0.9), 2.0, 16),
    (Slo(4 * SERVICE_NS, 0.9), 2.0, 16),
    (Slo(8 * SERVICE_NS, 0.9), 2.0, 16),
    (Slo(4 * SERVICE_NS, 0.95), 2.0, 16),
    (Slo(6 * SERVICE_NS, 0.99), 5.0, 16),
    FEW,
)
"""With the seconds of an episode and the probes of a search. The last has some hundred requests an
episode, as calls of 10 ms have in 1.5 s for an objective of 200 ms."""


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
    rate: float, seconds: float, seed: int | Sequence[int], burstiness: float = 1.0
) -> Trace:
    """What a session would have done whose calls take 1 ms."""
    due = arrivals(rate, burstiness, seed, seconds=seconds)
    end_ns = round(seconds * 1e9)
    service = np.full(len(due), SERVICE_NS)
    return lindley(due, service, end_ns, end_ns + round(BACKLOG_SHARE * end_ns))


def cell(load: float, requests: int, seed: Sequence[int]) -> list[Trace]:
    """Episodes in which so many requests arrive on average."""
    rate = load * SERVED_PER_S
    return [episode(rate, requests / rate, (*seed, number)) for number in range(EPISODES)]


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


def interval_coverage(
    load: float, requests: int, replications: int, *, bounded: bool = True
) -> dict[float, Outcome]:
    """95 % intervals of e2el by level; without the bound those that the series alone would give.

    A saturated cell has none.
    """
    truth = {p: true_e2el(load, p) for p in LEVELS}
    given, held = dict.fromkeys(LEVELS, 0), dict.fromkeys(LEVELS, 0)
    for replication in range(replications):
        traces = cell(load, requests, (1, replication))
        offered = saturation(traces, load * SERVED_PER_S)
        found = figures(traces, None, 0.95, Queue(offered.load, 1.0) if bounded else None)
        if found is None or offered.saturated:
            continue
        for p, estimate in found.e2el.items():
            if isinstance(estimate, QuantileEstimate):
                given[p] += 1
                held[p] += estimate.low <= truth[p] <= estimate.high
    return {p: Outcome(replications, given[p], held[p]) for p in LEVELS}


def saturated_share(load: float, requests: int, replications: int) -> float:
    """How often a cell's schedule is called saturated, whatever rate was asked for."""
    cells = (cell(load, requests, (2, replication)) for replication in range(replications))
    return float(np.mean([saturation(traces, rate=0.0).saturated for traces in cells]))


@dataclass(frozen=True)
class Searches:
    """Of one SLO."""

    found: list[Capacity]
    truth: float
    """In requests a second, like the others."""

    @property
    def met(self) -> float:
        """Median of the searches in which a rate was met."""
        return float(np.median([c.met for c in self.found if c.met is not None]))

    @property
    def width(self) -> float:
        """Median of missed over met rate, of the searches that have both."""
        both = [(c.met, c.missed) for c in self.found]
        return float(np.median([high / low for low, high in both if low and high]))

    @property
    def none_met(self) -> float:
        """Share of the searches."""
        return float(np.mean([c.met is None for c in self.found]))

    @property
    def claims(self) -> int:
        return sum((c.met is not None) + (c.missed is not None) for c in self.found)

    @property
    def false_claims(self) -> int:
        met = sum(c.met is not None and c.met > self.truth for c in self.found)
        return met + sum(c.missed is not None and c.missed < self.truth for c in self.found)


def search_capacity(
    probe: Callable[[float], Trace], slo: Slo, start: float, **settings: float
) -> Capacity:
    """Run a whole search. ``probe`` makes one episode at a rate; ``settings`` are those of
    ``CapacitySearch``."""
    search = CapacitySearch(slo, start, **settings)  # type: ignore[arg-type]
    while (rate := search.next_rate()) is not None:
        search.add(rate, probe(rate))
    return search.found


def capacity_searches(slo: Slo, seconds: float, replications: int, *, probes: int = 16) -> Searches:
    """Searches as a run makes them, from half of what is served back to back."""
    found = [_search(slo, seconds, probes, replication) for replication in range(replications)]
    return Searches(found, true_capacity(slo))


def _search(slo: Slo, seconds: float, probes: int, seed: int) -> Capacity:
    number = itertools.count()
    return search_capacity(
        lambda rate: episode(rate, seconds, (3, seed, next(number))),
        slo,
        SERVED_PER_S / 2,
        probes=probes,
        highest=1.5 * SERVED_PER_S,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--replications", type=int, default=500)
    count = parser.parse_args().replications

    print(f"{count} replications each; standard error at 95 %: {math.sqrt(0.0475 / count):.1%}")
    print("\nIntervals of e2el, cells of four episodes\n")
    levels = " | ".join(f"p{100 * p:.0f} given, held" for p in LEVELS)
    print(f"| load | requests an episode | {levels} |\n|---|---|" + "---|" * len(LEVELS))
    for load, requests in itertools.product(LOADS, SIZES):
        outcomes = interval_coverage(load, requests, count).values()
        print(f"| {load} | {requests} | " + " | ".join(map(_given_and_held, outcomes)) + " |")
    alone = interval_coverage(0.9, 800, count, bounded=False)[0.9]
    print("\nWithout the bound, p90 at a load of 0.9, 800 requests:", _given_and_held(alone))

    print("\nCells of four episodes called saturated by their schedule, %\n")
    print("| true load | " + " | ".join(f"{load:g}" for load in SATURATION_LOADS) + " |")
    print("|---|" + "---|" * len(SATURATION_LOADS))
    for requests in SATURATION_SIZES:
        shares = (100 * saturated_share(load, requests, count) for load in SATURATION_LOADS)
        cells = " | ".join(f"{share:.0f}" for share in shares)
        print(f"| {requests} requests an episode | {cells} |")

    print("\nCapacity searches from 500/s\n")
    print("| SLO | episodes | true capacity | median met | median missed / met | none met ", end="")
    print("| false claims |\n|---|---|---|---|---|---|---|")
    for slo, seconds, probes in OBJECTIVES:
        found = capacity_searches(slo, seconds, count, probes=probes)
        print(
            f"| {slo} | {seconds:g} s | {found.truth:.0f} | {found.met:.0f} | {found.width:.2f} "
            f"| {100 * found.none_met:.0f} % | {found.false_claims} of {found.claims} |"
        )


def _given_and_held(outcome: Outcome) -> str:
    given = f"{100 * outcome.share_given:.0f} %"
    return f"{given}, {100 * outcome.coverage:.0f} %" if outcome.given else given


if __name__ == "__main__":
    main()
