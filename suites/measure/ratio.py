"""How many times slower one cell is than another that took turns with it.

On a machine whose speed comes and goes with its neighbours, this is known where neither cell's own
time is: what slows a round slows both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from suites.measure.measurement import Measurement, Samples
from suites.measure.quantiles import autoregressive_samples

FEWEST_ROUNDS = 3
"""With two, Student's interval rests on one degree of freedom and says nothing."""
MOST_ROUNDS = 300
"""Whose pairs are averaged: of more rounds, as many are taken evenly."""


@dataclass(frozen=True)
class RatioEstimate:
    """``a`` over ``b``: 2.0 when a call of ``a`` takes twice as long."""

    value: float
    low: float
    high: float
    confidence: float
    rounds: int

    @property
    def turned_over(self) -> RatioEstimate:
        """``b`` over ``a``."""
        return RatioEstimate(
            1 / self.value, 1 / self.high, 1 / self.low, self.confidence, self.rounds
        )


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


def _ratio(
    by_round_a: Mapping[int, float], by_round_b: Mapping[int, float], confidence: float
) -> RatioEstimate | None:
    common = sorted(by_round_a.keys() & by_round_b.keys())
    if len(common) < FEWEST_ROUNDS:
        return None
    differences = np.array([by_round_a[r] - by_round_b[r] for r in common])
    stretch = math.sqrt(len(common) / max(autoregressive_samples(differences), 1.0))
    low, centre, high = _by_signed_ranks(differences, confidence) or _students(
        differences, confidence
    )
    return RatioEstimate(
        math.exp(centre),
        math.exp(centre - stretch * (centre - low)),
        math.exp(centre + stretch * (high - centre)),
        confidence,
        len(common),
    )


def _by_signed_ranks(
    differences: np.ndarray, confidence: float
) -> tuple[float, float, float] | None:
    """Lower end, Hodges-Lehmann estimate, upper end; None where the rounds are too few."""
    n = len(differences)
    if n > MOST_ROUNDS:
        differences = differences[np.linspace(0, n - 1, MOST_ROUNDS).astype(int)]
        n = MOST_ROUNDS
    rank = signed_rank(n, confidence)
    if rank < 1:
        return None
    first, second = np.triu_indices(n)
    averages = np.sort((differences[first] + differences[second]) / 2)
    return float(averages[rank - 1]), float(np.median(averages)), float(averages[-rank])


@cache
def signed_rank(n: int, confidence: float) -> int:
    """``max{k : P(W < k) <= alpha/2}`` of Wilcoxon's ``W``, the sum of the ranks 1..n that have a
    positive sign, all ``2^n`` signs being equally likely; 0 if there is none."""
    chances = np.ones(1)
    for rank in range(1, n + 1):
        without, with_it = np.pad(chances, (0, rank)), np.pad(chances, (rank, 0))
        chances = (without + with_it) / 2
    return int(np.searchsorted(np.cumsum(chances), (1 - confidence) / 2, side="right"))


def _students(differences: np.ndarray, confidence: float) -> tuple[float, float, float]:
    n, centre = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    return centre - reach, centre, centre + reach


def _log_medians(samples: Samples) -> dict[int, float]:
    """Log of the median of each round's kept calls; rounds below the clock's tick are left out."""
    medians = {
        int(number): float(np.median(samples.nanoseconds[samples.round == number]))
        for number in np.unique(samples.round[~samples.warmup])
    }
    return {number: math.log(median) for number, median in medians.items() if median > 0}
