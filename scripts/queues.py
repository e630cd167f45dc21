"""The proof of what Assay says of load: how often it holds on queues whose truth is known.

    python -m scripts.queues                      # all tables, about ten minutes on one core
    python -m scripts.queues --replications 50    # a look

M/D/1 queues (Poisson arrivals, each call takes 1 ms, one slot) are simulated, judged by the code
that judges sessions, and held to the exact distribution of their waiting times; capacity searches
also on GI/M/1 queues, whose arrivals come in bursts and whose calls are exponential. Run it from
the repository's root. Everything is seeded: the same numbers come out again.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.coverage import Outcome
from scripts.queueing import (
    SERVED_PER_S,
    SERVICE_NS,
    bursty_objective,
    episode,
    true_capacity,
    true_e2el,
)
from suites.measure.load.capacity import Capacity, CapacitySearch
from suites.measure.load.figures import LEVELS, Queue, figures
from suites.measure.load.saturation import saturation
from suites.measure.load.slo import Slo
from suites.measure.load.trace import Trace
from suites.measure.quantiles import QuantileEstimate

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
BURSTY_CAPACITY = 748.0
"""Just below 750, which every search from 500 tries: where a false claim is likeliest."""
BURSTY = (
    (1.0, 0.9, 2.0, 16),
    (0.25, 0.9, 2.0, 16),
    (0.25, 0.7, 0.15, 14),
    (0.1, 0.7, 0.5, 14),
)
"""Burstiness of arrivals at exponential calls, share of the objective, seconds and probes."""


def cell(load: float, requests: int, seed: Sequence[int]) -> list[Trace]:
    """Episodes in which so many requests arrive on average."""
    rate = load * SERVED_PER_S
    return [episode(rate, requests / rate, (*seed, number)) for number in range(EPISODES)]


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
    probe: Callable[[float], Trace], slo: Slo, start: float, **settings: float | None
) -> Capacity:
    """Run a whole search. ``probe`` makes one episode at a rate; ``settings`` are those of
    ``CapacitySearch``."""
    search = CapacitySearch(slo, start, **settings)  # type: ignore[arg-type]
    while (rate := search.next_rate()) is not None:
        search.add(rate, probe(rate))
    return search.found


def capacity_searches(slo: Slo, seconds: float, replications: int, *, probes: int = 16) -> Searches:
    """Searches as a run makes them, from half of what is served back to back."""

    def one(replication: int) -> Capacity:
        number = itertools.count()
        return search_capacity(
            lambda rate: episode(rate, seconds, (3, replication, next(number))),
            slo,
            SERVED_PER_S / 2,
            probes=probes,
            highest=1.5 * SERVED_PER_S,
        )

    return Searches([one(each) for each in range(replications)], true_capacity(slo))


def bursty_searches(
    burstiness: float,
    share: float,
    seconds: float,
    replications: int,
    *,
    probes: int = 16,
    bounded: bool = True,
) -> Searches:
    """The same of a queue whose capacity is just missed; without the bound, by the series alone."""
    slo = bursty_objective(BURSTY_CAPACITY, share, burstiness)

    def one(replication: int) -> Capacity:
        number = itertools.count()
        return search_capacity(
            lambda rate: episode(
                rate, seconds, (4, replication, next(number)), burstiness, exponential=True
            ),
            slo,
            SERVED_PER_S / 2,
            burstiness=burstiness if bounded else None,
            probes=probes,
            highest=1.5 * SERVED_PER_S,
        )

    return Searches([one(each) for each in range(replications)], BURSTY_CAPACITY)


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

    print(
        f"\nThe same, of exponential calls, {BURSTY_CAPACITY:g}/s; in brackets without the bound\n"
    )
    print("| burstiness | SLO | episodes | median met | median missed / met | none met ", end="")
    print("| false claims |\n|---|---|---|---|---|---|---|")
    for burstiness, share, seconds, probes in BURSTY:
        bound, alone = (
            bursty_searches(burstiness, share, seconds, count, probes=probes, bounded=bounded)
            for bounded in (True, False)
        )
        slo = bursty_objective(BURSTY_CAPACITY, share, burstiness)
        print(
            f"| {burstiness:g} | {100 * share:g} % within {slo.e2el_ns / SERVICE_NS:.1f} ms "
            f"| {seconds:g} s | {bound.met:.0f} ({alone.met:.0f}) "
            f"| {bound.width:.2f} ({alone.width:.2f}) "
            f"| {100 * bound.none_met:.0f} % ({100 * alone.none_met:.0f} %) "
            f"| {bound.false_claims} of {bound.claims} ({alone.false_claims} of {alone.claims}) |"
        )


def _given_and_held(outcome: Outcome) -> str:
    given = f"{100 * outcome.share_given:.0f} %"
    return f"{given}, {100 * outcome.coverage:.0f} %" if outcome.given else given


if __name__ == "__main__":
    main()
