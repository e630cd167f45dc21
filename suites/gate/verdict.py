"""Three outcomes of one comparison: slower than allowed, known to be fast enough, or not known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from reports.gate import Outcome
from suites.gate.eprocess import log_evidence


def slower_evidence(differences: np.ndarray, ignore: float, margin: float) -> np.ndarray:
    """Log of the evidence, after each pair's log(candidate / baseline), shape ``(n,)``, that the
    candidate is slower by more than ``ignore``; a slow-down by ``margin`` is to be noticed."""
    low, high = math.log1p(ignore), math.log1p(margin)
    return log_evidence(differences - low, high - low)


def fast_enough_evidence(differences: np.ndarray, margin: float) -> np.ndarray:
    """The same for a slow-down of less than ``margin``; none at all is to be noticed."""
    high = math.log1p(margin)
    return log_evidence(high - differences, high)


@dataclass
class PairedVerdict:
    """One comparison on its way: it takes differences and knows when it has seen enough.

    With ``d`` a pair's log(candidate / baseline), it weighs the evidence that ``d`` lies above
    ``log(1 + ignore)`` against ``comparisons / alpha``, and the evidence that it lies below
    ``log(1 + margin)`` against ``1 / beta``. Both may be looked at after every pair.
    """

    ignore: float
    margin: float
    alpha: float
    beta: float
    comparisons: int
    """Of the whole gate, which share its ``alpha``."""
    max_pairs: int
    differences: list[float] = field(default_factory=list)

    def add(self, difference: float) -> None:
        if self.finished:
            raise ValueError("the comparison has ended: what comes later must not change it")
        if not math.isfinite(difference):
            raise ValueError(f"a pair's difference must be finite, not {difference}")
        self.differences.append(difference)

    @property
    def slower(self) -> float:
        """Log of the evidence for a slow-down of more than ``ignore``; 0 before the first pair."""
        found = slower_evidence(np.array(self.differences), self.ignore, self.margin)
        return float(found[-1]) if found.size else 0.0

    @property
    def fast_enough(self) -> float:
        """Log of the evidence for a slow-down of less than ``margin``; 0 before the first pair."""
        found = fast_enough_evidence(np.array(self.differences), self.margin)
        return float(found[-1]) if found.size else 0.0

    @property
    def slower_needed(self) -> float:
        return math.log(self.comparisons / self.alpha)

    @property
    def fast_enough_needed(self) -> float:
        return math.log(1 / self.beta)

    @property
    def outcome(self) -> Outcome:
        """Inconclusive until one of the two has reached what it needs."""
        if not self.differences:
            return "inconclusive"
        if self.slower >= self.slower_needed:
            return "regressed"
        return "pass" if self.fast_enough >= self.fast_enough_needed else "inconclusive"

    @property
    def finished(self) -> bool:
        return self.outcome != "inconclusive" or len(self.differences) >= self.max_pairs

    @property
    def progress(self) -> float:
        """About how much of the way to a verdict is behind it, 0 to 1; it may fall again."""
        if self.finished:
            return 1.0
        if not self.differences:
            return 0.0
        return max(
            self.slower / self.slower_needed,
            self.fast_enough / self.fast_enough_needed,
            len(self.differences) / self.max_pairs,
        )

    @property
    def change(self) -> float:
        """The median pair's slow-down, 0.05 for 5 %. For reading: the verdict does not use it."""
        return math.expm1(float(np.median(self.differences))) if self.differences else math.nan
