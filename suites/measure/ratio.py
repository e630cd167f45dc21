"""How many times slower one cell is than another that took turns with it.

On a machine whose speed comes and goes with its neighbours, this is known where neither cell's own
time is: what slows a round slows both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from suites.measure.measurement import Measurement, Samples
from suites.measure.quantiles import autoregressive_samples

FEWEST_ROUNDS = 3
"""With two, Student's interval rests on one degree of freedom and says nothing."""


@dataclass(frozen=True)
class RatioEstimate:
    """``a`` over ``b``: 2.0 when a call of ``a`` takes twice as long."""

    value: float
    low: float
    high: float
    confidence: float
    rounds: int


def ratio_interval(
    a: Measurement, b: Measurement, confidence: float = 0.95
) -> RatioEstimate | None:
    """The ratio of two interleaved cells' median call times, from the rounds that both were in.

    With ``d_r = log(median of a in round r) - log(median of b in round r)`` over ``R`` rounds,

        exp(mean(d) +- t_{R-1, 1-alpha/2} * sd(d) / sqrt(m))

    where ``m <= R`` is what the rounds are worth if ``d`` is a first-order autoregression
    (``autoregressive_samples``). What the machine did in a round slowed both and cancels in
    ``d_r``; the order within a round was random, so that a drift inside it has no direction. What
    is assumed is that the ``d_r`` are about normal, as medians of blocks are. None with fewer than
    three common rounds, as for cells of different groups.
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
    return {
        a: {
            b: found
            for b in medians
            if b != a and (found := _ratio(medians[a], medians[b], confidence)) is not None
        }
        for a in medians
    }


def _ratio(
    by_round_a: Mapping[int, float], by_round_b: Mapping[int, float], confidence: float
) -> RatioEstimate | None:
    common = sorted(by_round_a.keys() & by_round_b.keys())
    if len(common) < FEWEST_ROUNDS:
        return None
    differences = np.array([by_round_a[r] - by_round_b[r] for r in common])
    worth = max(autoregressive_samples(differences), 1.0)
    centre = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(worth)
    reach = float(stats.t.ppf((1 + confidence) / 2, len(common) - 1)) * error
    return RatioEstimate(
        math.exp(centre),
        math.exp(centre - reach),
        math.exp(centre + reach),
        confidence,
        len(common),
    )


def _log_medians(samples: Samples) -> dict[int, float]:
    """Log of the median of each round's kept calls; rounds below the clock's tick are left out."""
    medians = {
        int(number): float(np.median(samples.nanoseconds[samples.round == number]))
        for number in np.unique(samples.round[~samples.warmup])
    }
    return {number: math.log(median) for number, median in medians.items() if median > 0}
