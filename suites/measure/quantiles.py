"""Quantiles of dependent samples, with distribution-free confidence intervals.

Call times are skewed, have several modes and depend on one another, so nothing here assumes a
distribution. An interval for the p-quantile is a pair of order statistics whose ranks come from
the binomial distribution (Wilks 1941; David & Nagaraja, *Order Statistics*, 7.1), computed for
the number of independent samples that the dependent ones are worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from arviz_stats.base import array_stats
from scipy import stats


@dataclass(frozen=True)
class QuantileEstimate:
    """A quantile with its interval, all in the unit of the samples."""

    p: float
    value: float
    low: float
    high: float
    confidence: float
    effective: float
    """Independent samples that the given ones are worth for this quantile."""

    @property
    def precision(self) -> float:
        """Half the interval's width relative to the value; infinite for a value of zero."""
        if self.high == self.low:
            return 0.0
        return (self.high - self.low) / 2 / abs(self.value) if self.value else math.inf


@dataclass(frozen=True)
class Insufficient:
    """The samples cannot support this quantile at this confidence."""

    p: float
    confidence: float
    effective: float
    needed: int
    """Effective samples from which on they could."""


def quantile_interval(
    samples: np.ndarray,
    p: float,
    confidence: float = 0.95,
    effective: float | None = None,
) -> QuantileEstimate | Insufficient:
    """The ``p``-quantile of a series in order of time, shape ``(n,)``, with its interval.

    With ``m`` effective samples and ``B ~ Binomial(m, p)`` the ranks are

        l = max{l : P(B < l) <= alpha/2},    u = min{u : P(B >= u) <= alpha/2}

    and the interval is ``[x_(l), x_(u)]``. Where ``m < n`` the ranks are scaled by
    ``(n + 1) / (m + 1)``, outwards, because the rank ``r`` of ``m`` stands at the level
    ``r / (m + 1)``. ``Insufficient`` where a rank does not exist: p99 at 95 % needs 368, since
    ``0.99^m <= 0.025``. The value is the median-unbiased estimate (Hyndman & Fan 1996, type 8).

    ``effective`` is ``m`` where it is known better than ``effective_samples`` can estimate it.

    Raises ValueError for a series that is empty or not finite, or a level outside (0, 1).
    """
    series = np.asarray(samples, dtype=np.float64)
    if series.ndim != 1 or series.size == 0 or not np.isfinite(series).all():
        raise ValueError("a quantile needs a one-dimensional, finite series of at least one sample")
    if not (0 < p < 1 and 0 < confidence < 1):
        raise ValueError(f"p and confidence must lie in (0, 1), not {p} and {confidence}")
    if effective is None:
        effective = effective_samples(series, p)
    ranks = binomial_ranks(int(effective), p, confidence)
    if ranks is None:
        return Insufficient(p, confidence, effective, needed_samples(p, confidence))
    ordered = np.sort(series)
    scale = (series.size + 1) / (int(effective) + 1)
    low = ordered[max(math.floor(ranks[0] * scale), 1) - 1]
    high = ordered[min(math.ceil(ranks[1] * scale), series.size) - 1]
    value = np.clip(np.quantile(ordered, p, method="median_unbiased"), low, high)
    return QuantileEstimate(p, float(value), float(low), float(high), confidence, effective)


def binomial_ranks(m: int, p: float, confidence: float) -> tuple[int, int] | None:
    """Ranks (from 1) of the order statistics that enclose the ``p``-quantile of ``m`` independent
    samples, each side missing it with at most half of ``1 - confidence``; None if there are none.
    """
    if m < 1:
        return None
    tail = (1 - confidence) / 2
    low = int(stats.binom.ppf(tail, m, p))
    # ppf gives the smallest k with P(B <= k) >= tail; rank l needs P(B <= l - 1) <= tail.
    if stats.binom.cdf(low, m, p) <= tail:
        low += 1
    high = int(stats.binom.isf(tail, m, p)) + 1
    return (low, high) if low >= 1 and high <= m else None


def needed_samples(p: float, confidence: float) -> int:
    """Fewest independent samples for which both ranks exist: ``max(p, 1-p)^m <= alpha/2``."""
    return math.ceil(round(math.log((1 - confidence) / 2) / math.log(max(p, 1 - p)), 9))


def effective_samples(samples: np.ndarray, p: float) -> float:
    """Independent samples that a series is worth for its ``p``-quantile, at most its length."""
    n = len(samples)
    if n < 4:
        return float(n)
    ess = float(
        array_stats.ess(
            np.asarray(samples, dtype=np.float64)[None, :],
            chain_axis=0,
            draw_axis=1,
            method="quantile",
            prob=p,
        )
    )
    return min(ess, float(n)) if math.isfinite(ess) else 1.0
