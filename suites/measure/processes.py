"""What the calls of several processes of one build say of its latency.

Two processes of one program differ: by where its memory came to lie, by which threads landed on
which cores, by what the machine did in their time. Within one process nothing shows that, however
many calls it makes (Kalibera & Jones 2013, *Rigorous benchmarking in reasonable time*).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from suites.measure.measurement import (
    QUANTILES,
)
from suites.measure.plan import FEWEST_CALLS, FEWEST_PROCESSES, MeasurePlan
from suites.measure.quantiles import (
    TRUSTED_EFFECTIVE,
    Insufficient,
    QuantileEstimate,
    binomial_ranks,
    effective_samples,
    needed_samples,
)
from suites.measure.steady import WINDOW_CALLS

SHOWS_A_DRIFT = 3 * WINDOW_CALLS
"""Calls from which on ``drift_of`` compares their thirds."""
CORRELATION = 1 / 3
"""Of two successive processes' logarithms: the mean of what ``scripts/repeat.py`` counted on a
machine whose slow states last ten to twenty seconds (docs/evidence/repeat.md)."""


def between(logs: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Lower end, centre and upper end for the typical process, from one logarithm of each in order
    of time, shape ``(k,)``.

    Student's interval ``mean +- t_{k-1} s c_k / sqrt(k)``. What differs between processes and what
    is not known within each of them are both in ``s``. Successive processes also meet the same
    states of the machine, which last longer than they do: with a correlation of ``r**j`` between
    those that are ``j`` apart, ``r`` being ``CORRELATION``, the mean's variance is
    ``f = 1 + 2 sum_j (1 - j/k) r**j`` times that of independent ones, and the expectation of
    ``s**2`` is ``(k - f)/(k - 1)`` times theirs; ``c_k**2`` is the first over the second. Raises
    ValueError for fewer than ``FEWEST_PROCESSES``.
    """
    k = len(logs)
    if k < FEWEST_PROCESSES:
        raise ValueError(f"an interval needs {FEWEST_PROCESSES} processes, not {k}")
    centre, reach = students(logs, confidence)
    reach *= _stretch(k)
    return centre - reach, centre, centre + reach


def share_of(plan: MeasurePlan) -> MeasurePlan:
    """What each of the plan's processes is asked for.

    If every one's median is known to ``precision``, and they do not differ otherwise, their joint
    interval is ``t_{k-1} c_k / (z sqrt(k))`` times as wide; the quotient makes it the asked one.
    """
    k = plan.processes
    if k == 1:
        return plan
    tail = (1 + plan.confidence) / 2
    joint = float(stats.t.ppf(tail, k - 1) / stats.norm.ppf(tail)) * _stretch(k) / math.sqrt(k)
    fewest = min(plan.min_samples, max(FEWEST_CALLS, math.ceil(plan.min_samples / k)))
    first = max(fewest, min(plan.first_look, max(SHOWS_A_DRIFT, math.ceil(plan.first_look / k))))
    return replace(
        plan,
        processes=1,
        precision=min(plan.precision / joint, max(plan.precision, 0.5)),
        min_samples=fewest,
        first_look=first,
        max_samples=max(first, math.ceil(plan.max_samples / k)),
        max_seconds=max(plan.max_seconds / k, plan.min_seconds),
        patience_s=plan.patience_s / k,
    )


def _stretch(k: int) -> float:
    apart = np.arange(1, k)
    f = 1 + 2 * float(np.sum((1 - apart / k) * CORRELATION**apart))
    return math.sqrt(f * (k - 1) / (k - f))


def students(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Mean of independent values, shape ``(n,)``, and the half width of its interval,
    ``t_{n-1} s / sqrt(n)`` (Student 1908)."""
    reach = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(reach)


def balanced_quantile(parts: Sequence[np.ndarray], level: float) -> float:
    """The smallest call at which the mean of the processes' empirical distributions reaches
    ``level``. ``parts`` are the calls of each, in any number."""
    calls = np.concatenate(parts)
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in parts])
    return float(np.quantile(calls, level, weights=weights, method="inverted_cdf"))


def tail_interval(within: QuantileEstimate, own: Sequence[float], level: float) -> QuantileEstimate:
    """A quantile of the calls of several processes whose interval counts them as independent,
    widened by what differs between processes.

    Two things may: how fast a process is, and how far its own tail lies from its median. The first
    is known by the half width ``level`` of the p50's interval in logarithms; an end that lies ``w``
    from the value comes to lie ``sqrt(w^2 + level^2)`` from it. The second shows in the processes'
    ``own`` quantiles; if their interval (``between``) reaches further, its half width is taken.
    """
    if within.low <= 0:
        return within
    low, centre, _ = between(np.log(own), within.confidence)
    sides = (within.value / within.low, within.high / within.value)
    down, up = (max(math.hypot(math.log(side), level), centre - low) for side in sides)
    return QuantileEstimate(
        within.p,
        within.value,
        within.value * math.exp(-down),
        within.value * math.exp(up),
        within.confidence,
        within.effective,
    )


def quantiles_of(
    parts: Sequence[np.ndarray], confidence: float = 0.95
) -> dict[float, QuantileEstimate | Insufficient]:
    """p50, p90 and p99 of the calls of ``FEWEST_PROCESSES`` or more, each an array of any length.

    Values are ``balanced_quantile``s. The p50's interval is that of the processes' medians
    (``between``), and reaches to its value where the mean of their logarithms lies apart from it;
    for the others' see ``tail_interval``.
    """
    medians = np.array([float(np.median(part)) for part in parts])
    if (medians <= 0).any():  # below the clock's tick there are no logarithms
        return {p: _of_calls(parts, p, confidence) for p in QUANTILES}
    low, centre, high = between(np.log(medians), confidence)
    found: dict[float, QuantileEstimate | Insufficient] = {}
    for p in QUANTILES:
        within = _of_calls(parts, p, confidence)
        if p == 0.5:
            value = balanced_quantile(parts, p)
            ends = min(math.exp(low), value), max(math.exp(high), value)
            found[p] = QuantileEstimate(p, value, *ends, confidence, within.effective)
        elif isinstance(within, Insufficient):
            found[p] = within
        else:
            own = [float(np.quantile(part, p)) for part in parts]
            found[p] = tail_interval(within, own, high - centre)
    return found


def _of_calls(
    parts: Sequence[np.ndarray], p: float, confidence: float
) -> QuantileEstimate | Insufficient:
    """The quantile of all processes' calls, as if these alone differed. The shift from process to
    process is no dependence of calls on one another, so each is worth what it is worth by itself;
    together, since each counts the same, ``k^2 / sum(1 / m_i)`` (Kish 1965)."""
    worth = [effective_samples(part, p) for part in parts]
    effective = len(parts) ** 2 / sum(1 / m for m in worth)
    m = int(effective)
    needed = needed_samples(p, confidence)
    if m < min(TRUSTED_EFFECTIVE, sum(map(len, parts)) / 2):
        return Insufficient(p, confidence, effective, max(needed, TRUSTED_EFFECTIVE))
    ranks = binomial_ranks(m, p, confidence)
    if ranks is None:
        return Insufficient(p, confidence, effective, needed)
    low, value, high = (
        balanced_quantile(parts, level) for level in (ranks[0] / (m + 1), p, ranks[1] / (m + 1))
    )
    return QuantileEstimate(p, value, low, high, confidence, effective)


def deviation_of(parts: Sequence[np.ndarray]) -> float:
    """Median absolute deviation from the median, each process counting the same, unscaled."""
    middle = balanced_quantile(parts, 0.5)
    return balanced_quantile([np.abs(part - middle) for part in parts], 0.5)


def spread_of(medians: np.ndarray) -> float | None:
    """Standard deviation of their logarithms; None where it is not known."""
    if len(medians) < 2 or (medians <= 0).any():
        return None
    return float(np.log(medians).std(ddof=1))
