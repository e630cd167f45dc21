"""One measurement from several processes of one build.

Two processes of one program differ: by where its memory came to lie, by which threads landed on
which cores, by what the machine did in their time. Within one process nothing shows that, however
many calls it makes (Kalibera & Jones 2013, *Rigorous benchmarking in reasonable time*).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats

from suites.measure.measurement import (
    QUANTILES,
    Conditions,
    Measurement,
    Processes,
    Samples,
    Status,
)
from suites.measure.meters.meter import Seen
from suites.measure.meters.surroundings import pooled as pooled_figures
from suites.measure.plan import FEWEST_PROCESSES
from suites.measure.quantiles import (
    Insufficient,
    QuantileEstimate,
    binomial_ranks,
    effective_samples,
    needed_samples,
)

CORRELATION = 1 / 3
"""Of two successive processes' logarithms: the mean of what ``scripts/repeat.py`` counted on a
machine whose slow states last ten to twenty seconds (docs/evidence/repeat.md)."""


def of_processes(found: Sequence[Measurement], confidence: float = 0.95) -> Measurement:
    """The measurements of one cell in several processes as one, in their order.

    ``ok`` where every process could be measured to its end, ``FEWEST_PROCESSES`` have calls after
    their warm-up, and the cell was not stationary in fewer than half of all: one that drifted is
    one draw like the others, with its calls; a cell that mostly drifts has no latency. Values are
    ``balanced_quantile``s; for their intervals see ``between`` and ``tail_interval``.

    A single measurement comes back as it is.
    """
    if len(found) == 1:
        return found[0]
    samples = _joined([each.samples for each in found])
    parts = [each.samples.kept for each in found if each.samples.kept.size]
    status, reason = _verdict(found, len(parts))
    kept = samples.kept
    ok = status == "ok"
    medians = np.array([float(np.median(part)) for part in parts])
    return Measurement(
        status=status,
        reason=reason,
        stopped_by=next((m.stopped_by for m in found if m.stopped_by != "precision"), "precision"),
        samples=samples,
        looks=tuple(look for each in found for look in each.looks),
        quantiles=_quantiles(parts, medians, confidence) if ok else {},
        minimum_ns=int(kept.min()) if ok else None,
        mad_ns=float(np.median(np.abs(kept - np.median(kept)))) if ok else None,
        warmup_calls=sum(each.warmup_calls for each in found),
        warmup_seconds=sum(each.warmup_seconds for each in found),
        conditions=_conditions(found),
        drift=_largest([each.drift for each in found]),
        own_drift=_largest([each.own_drift for each in found]),
        failure=next((each.failure for each in found if each.failure is not None), None),
        processes=Processes(len(parts), _unsteady(found), _spread(medians)) if parts else None,
    )


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
    apart = np.arange(1, k)
    f = 1 + 2 * float(np.sum((1 - apart / k) * CORRELATION**apart))
    centre, reach = students(logs, confidence)
    reach *= math.sqrt(f * (k - 1) / (k - f))
    return centre - reach, centre, centre + reach


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


def tail_interval(within: QuantileEstimate, reach: float) -> QuantileEstimate:
    """A quantile of the calls of several processes whose interval counts them as independent,
    widened by what differs between processes.

    A process that is slower by some per cent is taken to be so at every quantile. The two errors
    are independent: with ``reach`` the half width of the p50's interval in logarithms, an end that
    lies ``w`` from the value comes to lie ``sqrt(w^2 + reach^2)`` from it.
    """
    if within.low <= 0:
        return within
    down = math.hypot(math.log(within.value / within.low), reach)
    up = math.hypot(math.log(within.high / within.value), reach)
    return QuantileEstimate(
        within.p,
        within.value,
        within.value * math.exp(-down),
        within.value * math.exp(up),
        within.confidence,
        within.effective,
    )


def _quantiles(
    parts: Sequence[np.ndarray], medians: np.ndarray, confidence: float
) -> dict[float, QuantileEstimate | Insufficient]:
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
            found[p] = tail_interval(within, high - centre)
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
    ranks = binomial_ranks(m, p, confidence)
    if ranks is None:
        return Insufficient(p, confidence, effective, needed_samples(p, confidence))
    low, value, high = (
        balanced_quantile(parts, level) for level in (ranks[0] / (m + 1), p, ranks[1] / (m + 1))
    )
    return QuantileEstimate(p, value, low, high, confidence, effective)


def _verdict(found: Sequence[Measurement], usable: int) -> tuple[Status, str]:
    for number, each in enumerate(found, 1):
        if each.status == "error":
            return "error", f"{each.reason} (process {number} of {len(found)})"
    unsteady = [each for each in found if each.status == "not-stationary"]
    if 2 * len(unsteady) >= len(found) or usable < FEWEST_PROCESSES:
        return "not-stationary", (
            f"in {len(unsteady)} of {len(found)} processes; the first: {unsteady[0].reason}"
            if unsteady
            else f"only {usable} of {len(found)} processes have calls after their warm-up"
        )
    return "ok", ""


def _unsteady(found: Sequence[Measurement]) -> int:
    return sum(each.status == "not-stationary" for each in found)


def _spread(medians: np.ndarray) -> float:
    if len(medians) < 2 or (medians <= 0).any():
        return 0.0
    return float(np.log(medians).std(ddof=1))


def _largest(changes: Sequence[float | None]) -> float | None:
    return max((c for c in changes if c is not None), key=abs, default=None)


def _joined(parts: Sequence[Samples]) -> Samples:
    lengths = [len(part.nanoseconds) for part in parts]
    turns = np.cumsum([0, *(int(part.block.max(initial=-1)) + 1 for part in parts)])
    causes = [part.cause for part in parts if part.cause is not None]
    return Samples(
        nanoseconds=np.concatenate([part.nanoseconds for part in parts]),
        warmup=np.concatenate([part.warmup for part in parts]),
        block=np.concatenate(
            [part.block + turn for part, turn in zip(parts, turns, strict=False)]
        ).astype(np.int32),
        round=np.concatenate([part.round for part in parts]),
        disturbed=np.concatenate([part.disturbed for part in parts]),
        cause=np.concatenate(causes) if len(causes) == len(parts) else None,
        process=np.repeat(np.arange(len(parts), dtype=np.int32), lengths),
    )


def _conditions(found: Sequence[Measurement]) -> Conditions:
    told = [each for each in found if each.samples.kept.size]
    figures = pooled_figures(
        [Seen(each.conditions.figures) for each in told],
        [float(each.samples.kept.sum()) for each in told],
    )
    counts: Counter[str] = Counter()
    for each in told:
        counts.update(each.conditions.disturbed_by or {})
    disturbed = [each.conditions.disturbed_calls for each in told]
    if not told or any(calls is None for calls in disturbed):
        return Conditions(figures=figures)
    return Conditions(sum(calls or 0 for calls in disturbed), dict(counts), figures)
