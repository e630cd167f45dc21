"""How many times slower one cell is than another that took turns with it."""

from __future__ import annotations

import math
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
    by_round_a, by_round_b = _log_medians(a.samples), _log_medians(b.samples)
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
