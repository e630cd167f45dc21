"""How many times slower one cell is than another that took turns with it.

On a machine whose speed comes and goes with its neighbours, this is known where neither cell's own
time is: what slows a round slows both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from suites.measure.measurement import Measurement, Samples
from suites.measure.plan import FEWEST_PROCESSES
from suites.measure.processes import between, students
from suites.measure.quantiles import autoregressive_samples

FEWEST_ROUNDS = 3
"""With two, Student's interval rests on one degree of freedom and says nothing."""
MOST_ROUNDS = 300
"""Whose pairs are averaged: of more rounds, as many are taken evenly."""

LogMedians = Mapping[tuple[int, int], float]
"""Logarithm of the median of each block, by process and round."""


@dataclass(frozen=True)
class RatioEstimate:
    """``a`` over ``b``: 2.0 when a call of ``a`` takes twice as long."""

    value: float
    low: float
    high: float
    confidence: float
    rounds: int
    processes: int = 1

    @property
    def turned_over(self) -> RatioEstimate:
        """``b`` over ``a``."""
        return replace(self, value=1 / self.value, low=1 / self.high, high=1 / self.low)


def ratio_interval(
    a: Measurement, b: Measurement, confidence: float = 0.95
) -> RatioEstimate | None:
    """The typical ratio of two interleaved cells' blocks, from the rounds that both were in.

    With ``d_r = log(median of a in round r) - log(median of b in round r)`` over ``R`` rounds, the
    value is ``exp`` of the median of all Walsh averages ``(d_r + d_s) / 2``, ``r <= s`` (Hodges &
    Lehmann 1963), and its ends are those of the signed-rank test: the ``k``-th smallest and largest
    average, with ``k = max{k : P(W < k) <= alpha/2}`` and ``W`` Wilcoxon's statistic of ``R``
    (Hollander, Wolfe & Chicken, *Nonparametric Statistical Methods*, 3.3). The ends are moved away
    from the value by ``sqrt(R / m)``, where ``m <= R`` is what the rounds are worth if ``d`` is a
    first-order autoregression (``autoregressive_samples``). Fewer than six rounds cannot support
    such an interval at 95 %: they have Student's of the mean.

    What the machine did in a round slowed both and cancels in ``d_r``. What is assumed of the rest
    is that it is symmetric. The random order within a round makes the machine's part so: a change
    of speed between the two blocks strikes either of them. Such a round lies far off, and is one
    round here. The cells' own noise is symmetric in the difference if it has one shape; where one
    of them has a long tail and blocks are of a call or two, the ratio is not that of the medians.
    None with fewer than three common rounds, as for cells of different groups.

    Of cells that were measured in several processes each, the value within each pair of processes
    is one draw, and the interval is Student's of those logarithms (``processes.between``): what
    differs between processes is common to all rounds of a pair, and no number of rounds shows it.
    """
    return _ratio(_log_medians(a.samples), _log_medians(b.samples), confidence)


def ratios(
    measurements: Mapping[str, Measurement], confidence: float = 0.95
) -> dict[str, dict[str, RatioEstimate]]:
    """``ratios(m)[a][b]`` is ``ratio_interval(m[a], m[b])``, for all pairs that have one.

    Each interval holds by itself with ``confidence``: of the 18 of one cell of 19, about one
    misses the truth.
    """
    medians = {name: _log_medians(each.samples) for name, each in measurements.items()}
    found: dict[str, dict[str, RatioEstimate]] = {name: {} for name in medians}
    names = list(medians)
    for place, a in enumerate(names):
        for b in names[place + 1 :]:
            ratio = _ratio(medians[a], medians[b], confidence)
            if ratio is not None:
                found[a][b], found[b][a] = ratio, ratio.turned_over
    return found


def _ratio(a: LogMedians, b: LogMedians, confidence: float) -> RatioEstimate | None:
    by_process: dict[int, list[float]] = {}
    for process, number in sorted(a.keys() & b.keys()):
        difference = a[process, number] - b[process, number]
        by_process.setdefault(process, []).append(difference)
    rounds = sum(map(len, by_process.values()))
    if len(by_process) >= FEWEST_PROCESSES:
        typical = [_hodges_lehmann(np.array(each)) for each in by_process.values()]
        low, centre, high = between(np.array(typical), confidence)
        return RatioEstimate(
            math.exp(centre), math.exp(low), math.exp(high), confidence, rounds, len(by_process)
        )
    if len(by_process) != 1 or rounds < FEWEST_ROUNDS:
        return None
    return _of_one_process(np.array(next(iter(by_process.values()))), confidence)


def _of_one_process(differences: np.ndarray, confidence: float) -> RatioEstimate:
    n = len(differences)
    stretch = math.sqrt(n / max(autoregressive_samples(differences), 1.0))
    found = _by_signed_ranks(differences, confidence)
    if found is None:
        mean, reach = students(differences, confidence)
        found = mean - reach, mean, mean + reach
    low, centre, high = found
    return RatioEstimate(
        math.exp(centre),
        math.exp(centre - stretch * (centre - low)),
        math.exp(centre + stretch * (high - centre)),
        confidence,
        n,
    )


def _by_signed_ranks(
    differences: np.ndarray, confidence: float
) -> tuple[float, float, float] | None:
    """Lower end, Hodges-Lehmann estimate, upper end; None where the rounds are too few."""
    averages = _walsh_averages(differences)
    rank = signed_rank(min(len(differences), MOST_ROUNDS), confidence)
    if rank < 1:
        return None
    return float(averages[rank - 1]), float(np.median(averages)), float(averages[-rank])


def _hodges_lehmann(differences: np.ndarray) -> float:
    return float(np.median(_walsh_averages(differences)))


def _walsh_averages(differences: np.ndarray) -> np.ndarray:
    """In ascending order."""
    n = len(differences)
    if n > MOST_ROUNDS:
        differences = differences[np.linspace(0, n - 1, MOST_ROUNDS).astype(int)]
    first, second = np.triu_indices(len(differences))
    return np.sort((differences[first] + differences[second]) / 2)


@cache
def signed_rank(n: int, confidence: float) -> int:
    """``max{k : P(W < k) <= alpha/2}`` of Wilcoxon's ``W``, the sum of the ranks 1..n that have a
    positive sign, all ``2^n`` signs being equally likely; 0 if there is none."""
    chances = np.ones(1)
    for rank in range(1, n + 1):
        without, with_it = np.pad(chances, (0, rank)), np.pad(chances, (rank, 0))
        chances = (without + with_it) / 2
    return int(np.searchsorted(np.cumsum(chances), (1 - confidence) / 2, side="right"))


def _log_medians(samples: Samples) -> LogMedians:
    """Of each round's kept calls; rounds below the clock's tick are left out."""
    kept = ~samples.warmup
    process = np.zeros(len(kept), np.int32) if samples.process is None else samples.process
    found = {}
    for place in np.unique(np.stack([process[kept], samples.round[kept]], axis=1), axis=0):
        here = kept & (process == place[0]) & (samples.round == place[1])
        median = float(np.median(samples.nanoseconds[here]))
        if median > 0:
            found[int(place[0]), int(place[1])] = math.log(median)
    return found
