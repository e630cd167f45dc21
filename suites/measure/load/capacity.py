"""The highest rate at which a session keeps an SLO, as an interval with a known risk.

A rate *meets* the SLO when an upper bound of its share of misses is at most ``1 - share``, *misses*
it when a lower bound is above, and is undecided otherwise. The answer is the highest rate shown to
meet and the lowest shown to miss; the truth lies between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from arviz_stats.base import array_stats
from scipy import stats

from suites.measure.load.figures import Queue
from suites.measure.load.saturation import saturation
from suites.measure.load.slo import Slo
from suites.measure.load.trace import Trace, censored
from suites.measure.quantiles import (
    TRUSTED_EFFECTIVE,
    autoregressive_samples,
    effective_samples,
)

Verdict = Literal["met", "missed", "undecided"]

MOST_LOOKS_AT_A_RATE = 3
"""Episodes that one rate gets before the search goes elsewhere."""
STEP = 1.5
"""Factor between rates until one meets the SLO and one misses it."""


@dataclass(frozen=True)
class Judged:
    """What the episodes at one rate say of the SLO."""

    verdict: Verdict
    requests: int
    misses: int
    effective: float
    """Independent requests that they are worth by what their series shows."""
    worth: float
    """That they are worth by what is known of their queue as well: no more than ``effective``."""
    low: float
    """One-sided bounds of the share of misses, each at its own risk."""
    high: float


def judge(
    traces: Sequence[Trace], rate: float, slo: Slo, alpha: float, burstiness: float | None = 1.0
) -> Judged:
    """Decide one rate, in requests a second, from its episodes; each wrong answer has the risk
    ``alpha``. ``burstiness`` is the shape of the gaps; None trusts the series alone.

    The bounds are those of Clopper and Pearson (1934) on an effective number ``m`` of requests:
    ``k m / n`` misses in ``m`` trials, rounded up for the upper bound and down for the lower one.
    The upper bound's ``m`` is what the queue allows as well (``Queue.worth``): misses come in busy
    periods, and a series that has seen too few of them does not show how long they are. Trusted
    alone, one search in ten met a rate above the capacity where arrivals come in bursts. The lower
    bound needs no such help: episodes begin with an empty queue, and what is short has fewer
    misses, not more; no search missed a rate below the capacity (``scripts/queues.py`` counts
    both).

    Requests that were given up are misses. A rate that is ``overloaded`` misses whatever the SLO:
    its queue has no end. One that only looks saturated in its short schedule is not met, but missed
    it is not either: with few requests an episode a stable queue often looks so, and nothing bounds
    how often.
    """
    missed = np.concatenate([slo.missed(trace) for trace in traces])
    n, k = len(missed), int(missed.sum())
    if n == 0:
        return Judged("undecided", 0, 0, 0.0, 0.0, 0.0, 1.0)
    effective = worth = effective_requests(traces, slo)
    offered = saturation(traces, rate)
    if burstiness is not None:
        calls = np.concatenate([trace.service_ns for trace in traces])
        known = Queue(offered.load, burstiness).worth(calls) if len(calls) else 1.0
        worth = min(effective, known)
    low, _ = miss_bounds(k, n, effective, alpha)
    _, high = miss_bounds(k, n, worth, alpha)
    allowed = 1 - slo.share
    verdict: Verdict = "undecided"
    if low > allowed or overloaded(traces, rate, alpha):
        verdict = "missed"
    elif high <= allowed and not offered.saturated:
        verdict = "met"
    return Judged(verdict, n, k, effective, worth, low, high)


def overloaded(traces: Sequence[Trace], rate: float, alpha: float) -> bool:
    """Whether ``rate``, in requests a second, is at least what the slots can do, wrong with at most
    ``alpha``.

    By Student's lower bound of the mean call on its effective samples; fewer than
    ``TRUSTED_EFFECTIVE`` of them show nothing.
    """
    calls = np.concatenate([(t.finish - t.start)[t.served] for t in traces]).astype(np.float64)
    m = autoregressive_samples(calls) if len(calls) > 1 else 0.0
    if m < TRUSTED_EFFECTIVE:
        return False
    error = float(calls.std(ddof=1)) / math.sqrt(m)
    mean_s = (float(calls.mean()) - float(stats.t.ppf(1 - alpha, m - 1)) * error) / 1e9
    return rate * mean_s / traces[0].slots >= 1


def fewest_requests(share: float, alpha: float, probes: int) -> int:
    """Independent requests without a miss that show a rate to keep ``share``, in a search of so
    many ``probes``: ``share^n <= alpha / probes``."""
    return math.ceil(round(math.log(alpha / probes) / math.log(share), 9))


def miss_bounds(misses: int, requests: int, effective: float, alpha: float) -> tuple[float, float]:
    """Lower and upper one-sided bounds of the share of misses, each wrong with at most ``alpha``
    if the requests are worth ``effective`` independent ones."""
    m = max(1, math.floor(effective))
    scaled = misses * m / requests
    few, many = math.floor(scaled + 1e-9), math.ceil(scaled - 1e-9)
    low = float(stats.beta.ppf(alpha, few, m - few + 1)) if few else 0.0
    high = float(stats.beta.ppf(1 - alpha, many + 1, m - many)) if many < m else 1.0
    return low, high


def effective_requests(traces: Sequence[Trace], slo: Slo) -> float:
    """Independent requests that dependent ones are worth for their share of misses.

    Misses come in bursts, and a short series may have seen no burst at all: its misses alone would
    then look independent. So the dependence is read from the latencies themselves, which show it
    whether the SLO was missed or not. The smallest of: the effective samples of the median, and of
    the ``share``-quantile (both ``effective_samples``, which takes the smaller of Geyer's estimate
    and of an autoregression's), and Geyer's for the indicator of a miss, where there are some.
    It is conservative: latencies forget more slowly than the indicator of a rare event among them
    does.
    """
    series = censored(traces)
    found = [effective_samples(series, p) for p in (0.5, slo.share)]
    missed = np.concatenate([slo.missed(trace) for trace in traces]).astype(np.float64)
    if len(missed) >= 4 and 0 < missed.sum() < len(missed):
        by_misses = float(
            array_stats.ess(missed[None, :], chain_axis=0, draw_axis=1, method="mean")
        )
        found.append(by_misses if math.isfinite(by_misses) else 1.0)
    return max(1.0, min(found))


@dataclass(frozen=True)
class Capacity:
    """What a search found, rates in requests a second."""

    slo: Slo
    met: float | None
    """The highest rate shown to keep the SLO; None where none was."""
    missed: float | None
    """The lowest rate shown to miss it."""
    probes: int
    """Episodes that it took."""
    judged: dict[float, Judged]
    """The last judgement of each rate, in the order in which they were first tried."""

    @property
    def reason(self) -> str:
        """Why there is no capacity, in one line; empty where a rate was met."""
        if self.met is not None:
            return ""
        if self.missed is None:
            return f"no rate could be decided in {self.probes} episodes"
        there, lowest = self.judged[self.missed], min(self.judged)
        below = (
            f"nothing could be shown below it, down to {lowest:.3g}/s"
            if lowest < self.missed
            else "the lowest that was offered"
        )
        return (
            f"SLO met at no offered rate: {self.slo} was missed at {self.missed:.3g}/s "
            f"({there.misses} of {there.requests} requests), {below}"
        )


class CapacitySearch:
    """Brackets the capacity, then halves the bracket on a logarithmic scale.

    It goes up until a rate misses, and only then down until one is met: an undecided rate has more
    requests above it, not below.

    ``next_rate`` says where the next episode goes, and ``add`` takes it. A rate that stays
    undecided is tried ``MOST_LOOKS_AT_A_RATE`` times, each time with all of its episodes together,
    and then left alone; the search goes on in the wider of the gaps on its two sides. At its end,
    or with its last episodes, it looks once more at an end of the bracket that rests on one
    episode: a machine that was slow for those seconds would have made a rate miss that it can keep.
    Every look has the risk ``alpha / probes`` of either mistake, so that by Bonferroni's inequality
    all claims of a search hold together with ``1 - alpha``.
    """

    def __init__(
        self,
        slo: Slo,
        start: float,
        *,
        burstiness: float | None = 1.0,
        alpha: float = 0.05,
        probes: int = 16,
        resolution: float = 1.1,
        lowest: float = 0.0,
        highest: float = math.inf,
    ) -> None:
        """``start`` is the first rate; below ``lowest`` and above ``highest`` nothing is tried.
        ``burstiness`` is that of ``judge``."""
        self._slo = slo
        self._burstiness = burstiness
        self._alpha = alpha / probes
        self._probes = probes
        self._resolution = resolution
        self._lowest = lowest
        self._highest = highest
        self._next = min(start, highest)
        self._traces: dict[float, list[Trace]] = {}
        self._judged: dict[float, Judged] = {}
        self._looks = 0

    def next_rate(self) -> float | None:
        """None when the search is over."""
        if self._looks >= self._probes:
            return None
        once = self._seen_once()
        if once and self._looks + len(once) >= self._probes:
            return once[0]
        tried = self._judged.get(self._next)
        if tried is None:
            return self._next
        if tried.verdict == "undecided" and len(self._traces[self._next]) < MOST_LOOKS_AT_A_RATE:
            return self._next
        chosen = self._elsewhere()
        if chosen is None:
            return once[0] if once else None
        self._next = chosen
        return chosen

    def add(self, rate: float, trace: Trace) -> Judged:
        """One episode at ``rate``; how that rate stands now."""
        traces = self._traces.setdefault(rate, [])
        traces.append(trace)
        self._looks += 1
        self._judged[rate] = judge(traces, rate, self._slo, self._alpha, self._burstiness)
        return self._judged[rate]

    def _elsewhere(self) -> float | None:
        met, missed = self._met(), self._missed()
        if missed is None:
            highest = max(self._judged)
            return None if highest >= self._highest else min(highest * STEP, self._highest)
        if met is None:
            lower = min(self._judged) / STEP
            return lower if lower >= self._lowest else None
        between = sorted(rate for rate in self._judged if met < rate < missed)
        above, below = (between[0], between[-1]) if between else (missed, met)
        gaps = [(above / met, met, above), (missed / below, below, missed)]
        widest, low, high = max(gaps)
        return math.sqrt(low * high) if widest > self._resolution else None

    def _seen_once(self) -> list[float]:
        """The bracket's ends that rest on one episode."""
        ends = (self._missed(), self._met())
        return [rate for rate in ends if rate is not None and len(self._traces[rate]) == 1]

    def _met(self) -> float | None:
        """The highest rate that met the SLO below the lowest that missed it."""
        missed = self._missed()
        rates = [r for r, j in self._judged.items() if j.verdict == "met"]
        return max((r for r in rates if missed is None or r < missed), default=None)

    def _missed(self) -> float | None:
        return min((r for r, j in self._judged.items() if j.verdict == "missed"), default=None)

    def traces(self, rate: float) -> list[Trace]:
        """All episodes at a rate."""
        return self._traces[rate]

    @property
    def found(self) -> Capacity:
        return Capacity(self._slo, self._met(), self._missed(), self._looks, dict(self._judged))
