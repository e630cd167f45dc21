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
from scipy import special, stats

TRUSTED_EFFECTIVE = 16
"""A dependent series that is worth fewer independent samples is too short to know how dependent
it is: of 32 samples with a lag-1 correlation of 0.9, half look more independent than they are, and
intervals that trust them hold in 65 % of the cases (``scripts/coverage.py``)."""


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
    ``0.99^m <= 0.025``. Also where the samples are worth fewer than ``TRUSTED_EFFECTIVE`` and less
    than half of their number. The value is the median-unbiased one (Hyndman & Fan 1996, type 8).

    ``effective`` is ``m`` where it is known better than ``effective_samples`` can estimate it.

    Raises ValueError for a series that is empty or not finite, or a level outside (0, 1).
    """
    series = np.asarray(samples, dtype=np.float64)
    if series.ndim != 1 or series.size == 0 or not np.isfinite(series).all():
        raise ValueError("a quantile needs a one-dimensional, finite series of at least one sample")
    if not (0 < p < 1 and 0 < confidence < 1):
        raise ValueError(f"p and confidence must lie in (0, 1), not {p} and {confidence}")
    needed = needed_samples(p, confidence)
    if effective is None:
        effective = effective_samples(series, p)
        if effective < min(TRUSTED_EFFECTIVE, series.size / 2):
            return Insufficient(p, confidence, effective, max(needed, TRUSTED_EFFECTIVE))
    ranks = binomial_ranks(int(effective), p, confidence)
    if ranks is None:
        return Insufficient(p, confidence, effective, needed)
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
    """Independent samples that a series is worth for its ``p``-quantile, at most its length.

    The smaller of two estimates, because each misses what the other sees:

    - of the indicator ``x <= quantile`` by Geyer's initial monotone sequence (Vehtari et al.
      2021, ``method="quantile"`` in ArviZ): right for long series and any shape of dependence,
      but blind in short ones and in the tails, where the indicator hardly changes;
    - of a first-order autoregression, ``autoregressive_samples``: one number, which a few dozen
      samples know well, and which the tails inherit from the whole series.
    """
    series = np.asarray(samples, dtype=np.float64)
    n = series.size
    if n < 4 or series.min() == series.max():
        return float(n)
    by_indicator = float(
        array_stats.ess(series[None, :], chain_axis=0, draw_axis=1, method="quantile", prob=p)
    )
    if not math.isfinite(by_indicator):
        by_indicator = 1.0
    return max(min(float(n), by_indicator, autoregressive_samples(series)), 1.0)


def autoregressive_samples(samples: np.ndarray, detrended: bool = False) -> float:
    """Independent samples that a series is worth if it is a first-order autoregression.

    ``n (1 - r) / (1 + r)`` with the lag-1 correlation ``r`` of the normal scores, so that a spike
    counts no more than any other high sample. Its bias ``-(1 + 3 r) / n`` (Kendall 1954) is taken
    out; with ``detrended`` a line is fitted first, and the bias is ``-(2 + 4 r) / n`` (Sawa 1978).
    """
    n = len(samples)
    scores = special.ndtri((stats.rankdata(samples) - 0.375) / (n + 0.25))
    if detrended:
        time = np.arange(n) - (n - 1) / 2
        scores -= time * (time @ scores) / (time @ time)
    variation = float(scores @ scores)
    if variation < 1e-12 * n:
        return float(n)
    r = float(scores[1:] @ scores[:-1]) / variation
    intercept, slope = (2, 4) if detrended else (1, 3)
    r = min(max(r + (intercept + slope * max(r, 0.0)) / n, 0.0), 1.0)
    return n * (1 - r) / (1 + r)
