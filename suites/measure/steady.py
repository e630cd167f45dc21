"""Steady state: reached before samples are kept, and still there when they all are.

The two questions of Georges, Buytaert and Eeckhout (2007), *Statistically rigorous Java
performance evaluation*: when has a program warmed up, and can its later times be described by
one number? Both are answered with intervals of the median instead of a coefficient of variation,
because a single spike decides the latter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from suites.measure.quantiles import QuantileEstimate, autoregressive_samples, quantile_interval

WINDOW_CALLS = 6
"""Fewest calls for which a 95 % interval of the median exists: ``2 * 0.5^6 < 0.05``."""

DRIFT_CONFIDENCE = 0.998
"""Confidence of each of the two intervals that must be apart for a drift to be called."""

LARGE_DRIFT = 4
"""Tolerances. Calls that moved further than this, every one of a third, are not steady, whether
it is a trend or slow noise."""


@dataclass
class WarmUp:
    """The calls that are made and thrown away until two successive windows agree."""

    min_seconds: float
    confidence: float = 0.95
    windows: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    steady: bool = False

    def window_calls(self, seconds_per_call: float) -> int:
        """Calls in a window: half of the minimum time, and never too few for an interval."""
        return max(WINDOW_CALLS, math.ceil(self.min_seconds / 2 / max(seconds_per_call, 1e-9)))

    def add(self, window: np.ndarray, seconds: float) -> bool:
        """Take the next window, which lasted ``seconds``; True once the state is steady.

        Two windows agree when the intervals of their medians overlap. Their calls count as
        independent, since a handful of them cannot show how much they depend on one another:
        where they do, the intervals are too narrow and the warm-up lasts longer.
        """
        self.windows.append(window)
        self.seconds += seconds
        if len(self.windows) >= 2 and self.seconds >= self.min_seconds:
            before, now = (
                quantile_interval(each, 0.5, self.confidence, effective=len(each))
                for each in self.windows[-2:]
            )
            self.steady = (
                isinstance(before, QuantileEstimate)
                and isinstance(now, QuantileEstimate)
                and before.low <= now.high
                and now.low <= before.high
            )
        return self.steady


@dataclass(frozen=True)
class Drift:
    """How the median moved from the first to the last third of a series."""

    change: float
    """Relative change of the median; positive when it became slower."""
    significant: bool
    """The change is larger than the tolerance, and no accident."""


def drift_of(samples: np.ndarray, tolerance: float) -> Drift:
    """Compare the first with the last third of a series in order of time, shape ``(n,)``.

    ``significant`` asks for both: a change beyond ``tolerance`` (relative), so that a long series
    is not refused for a change that nobody would care about, and disjoint intervals, so that a
    short and noisy one is not refused for its noise. The effective samples of a third are those
    of its rest around a line: a drift inside it must not pass for noise that hides the drift.

    A bend inside a third does pass for such noise, and a third may be worth too few samples for an
    interval. Then a change beyond ``LARGE_DRIFT`` tolerances between thirds that do not overlap at
    all is significant.
    """
    third = len(samples) // 3
    if third < WINDOW_CALLS:
        return Drift(0.0, False)
    parts = samples[:third], samples[-third:]
    start, end = (float(np.median(part)) for part in parts)
    change = end / start - 1 if start > 0 else 0.0
    first, last = (
        quantile_interval(
            part,
            0.5,
            DRIFT_CONFIDENCE,
            effective=autoregressive_samples(part, detrended=True),
        )
        for part in parts
    )
    if isinstance(first, QuantileEstimate) and isinstance(last, QuantileEstimate):
        apart = first.high < last.low or last.high < first.low
        return Drift(change, apart and abs(change) > tolerance)
    before, after = parts
    separate = before.max() < after.min() or after.max() < before.min()
    return Drift(change, bool(separate) and abs(change) > LARGE_DRIFT * tolerance)
