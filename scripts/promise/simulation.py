"""Pairs that a comparison needs, by how much they differ by chance."""

from __future__ import annotations

import math

import numpy as np

from scripts.promise import self_normalised
from scripts.promise.gates import ALPHA, BETA, IGNORE, MARGIN, MAX_PAIRS
from suites.gate.verdict import fast_enough_evidence, slower_evidence

SIMULATED = 300
COMPARISONS = 5
SPREADS = (0.005, 0.01, 0.02, 0.03, 0.05)
TRUTHS = ((0.0, "pass"), (0.01, "pass"), (0.05, "regressed"), (0.1, "regressed"))
METHODS = ("betting", "self-normalised")


def simulated(seed: int = 0) -> str:
    """Markdown: pairs that a comparison of five needs, in the median, and how often it decides so,
    by the gate's e-process and by the self-normalised one, which is told the noise beforehand.

    Noise is normal, or with outliers: one pair in ten lies five times as far off.
    """
    random = np.random.default_rng(seed)
    heads = ["slow-down", "noise", "evidence", *(f"{spread:.1%}" for spread in SPREADS)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for slow_down, wanted in TRUTHS:
        for outliers in (0.0, 0.1):
            shape = (len(SPREADS), SIMULATED, MAX_PAIRS)
            far = np.where(random.random(shape) < outliers, 5.0, 1.0)
            noise = far * random.standard_normal(shape)
            for method in METHODS:
                cells = []
                for spread, gates in zip(SPREADS, noise, strict=True):
                    series = math.log1p(slow_down) + spread * gates
                    ended = [decided(each, method, spread) for each in series]
                    pairs = np.median([pairs for _, pairs in ended])
                    share = np.mean([outcome == wanted for outcome, _ in ended])
                    cells.append(f"{pairs:.0f} ({share:.0%})")
                told = [
                    f"{slow_down:.0%}: {wanted.upper()}",
                    "with outliers" if outliers else "normal",
                    method,
                ]
                lines.append("| " + " | ".join([*told, *cells]) + " |")
    return "\n".join(lines)


def decided(differences: np.ndarray, method: str, spread: float) -> tuple[str, int]:
    """How a comparison ends, and after how many pairs."""
    if method == "betting":
        slower = slower_evidence(differences, IGNORE, MARGIN)
        fast = fast_enough_evidence(differences, MARGIN)
    else:
        low, high = math.log1p(IGNORE), math.log1p(MARGIN)
        rho = self_normalised.best_rho(spread, high - low, ALPHA / COMPARISONS)
        slower = self_normalised.log_evidence(differences - low, rho)
        rho = self_normalised.best_rho(spread, high, BETA)
        fast = self_normalised.log_evidence(high - differences, rho)
    regressed = _first(slower >= math.log(COMPARISONS / ALPHA))
    passed = _first(fast >= math.log(1 / BETA))
    if min(regressed, passed) > len(differences):
        return "inconclusive", len(differences)
    return ("regressed", regressed) if regressed <= passed else ("pass", passed)


def _first(reached: np.ndarray) -> int:
    """The first pair, from 1, that reaches it; one more than there are where none does."""
    return int(reached.argmax()) + 1 if reached.any() else len(reached) + 1
