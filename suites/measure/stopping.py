"""When to stop sampling: few looks, each at a price.

Stopping as soon as an interval happens to be narrow makes it too narrow. So the samples are
looked at only when there are ``first * growth^k`` of them, and the ``k``-th look may be wrong
with probability ``alpha / (k (k + 1))``. Those add up to ``alpha`` over any number of looks, so
by Bonferroni's inequality *all* intervals that were ever looked at hold together with the asked
confidence, and so does the one at which the measurement stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from suites.measure.plan import MeasurePlan
from suites.measure.quantiles import Insufficient, QuantileEstimate, quantile_interval
from suites.measure.steady import Drift, drift_of


def look_sizes(first: int, growth: float) -> Iterator[int]:
    """Numbers of samples at which to look: ``first * growth^k`` rounded up, without end."""
    size = float(first)
    while True:
        yield math.ceil(size)
        size = max(size * growth, math.ceil(size) + 1)


def look_confidence(confidence: float, look: int) -> float:
    """Confidence of the interval at look number ``look`` (from 1): ``1 - alpha / (k (k + 1))``."""
    return 1 - (1 - confidence) / (look * (look + 1))


@dataclass(frozen=True)
class Look:
    """What was seen at one look."""

    samples: int
    p50: QuantileEstimate | Insufficient
    drift: Drift

    @property
    def precision(self) -> float:
        """Relative half width of the p50's interval; infinite where there is none."""
        return self.p50.precision if isinstance(self.p50, QuantileEstimate) else math.inf

    @property
    def within_reach(self) -> bool:
        """Whether there is no interval, and twice as many calls like these would give one."""
        return isinstance(self.p50, Insufficient) and 2 * self.p50.effective >= self.p50.needed


class Stopping:
    """The looks of one cell."""

    def __init__(self, plan: MeasurePlan, first: int) -> None:
        self._plan = plan
        self._sizes = look_sizes(first, plan.growth)
        self.next_size = min(next(self._sizes), plan.max_samples)
        self.looks: list[Look] = []

    def look(self, samples: np.ndarray) -> bool:
        """Look at all samples so far; True when they are precise enough and do not drift."""
        plan = self._plan
        level = look_confidence(plan.confidence, len(self.looks) + 1)
        seen = Look(
            samples=len(samples),
            p50=quantile_interval(samples, 0.5, level),
            drift=drift_of(samples, plan.drift_tolerance),
        )
        self.looks.append(seen)
        self.next_size = min(next(self._sizes), plan.max_samples)
        return seen.precision <= plan.precision and not seen.drift.significant
