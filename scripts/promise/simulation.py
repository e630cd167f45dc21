"""Pairs that a comparison needs, by how much they differ by chance."""

from __future__ import annotations

import numpy as np

from scripts.promise.gates import ALPHA, BETA, IGNORE, MARGIN, MAX_PAIRS
from suites.gate.verdict import PairedVerdict

SIMULATED = 300
COMPARISONS = 5


def simulated(seed: int = 0) -> str:
    """Markdown: pairs that a comparison of five needs, in the median, and how often it decides so.

    Noise is normal, or with outliers: one pair in ten lies five times as far off.
    """
    random = np.random.default_rng(seed)
    spreads = (0.005, 0.01, 0.02, 0.03, 0.05)
    lines = [
        "| slow-down | noise | " + " | ".join(f"{spread:.1%}" for spread in spreads) + " |",
        "|---|---|" + "---|" * len(spreads),
    ]
    for slow_down, wanted in (
        (0.0, "pass"),
        (0.01, "pass"),
        (0.05, "regressed"),
        (0.1, "regressed"),
    ):
        for outliers in (0.0, 0.1):
            cells = []
            for spread in spreads:
                verdicts = [
                    _verdict_of(slow_down, spread, outliers, random) for _ in range(SIMULATED)
                ]
                pairs = np.median([len(verdict.differences) for verdict in verdicts])
                share = np.mean([verdict.outcome == wanted for verdict in verdicts])
                cells.append(f"{pairs:.0f} ({share:.0%})")
            noise = "with outliers" if outliers else "normal"
            head = f"{slow_down:.0%}: {wanted.upper()} | {noise}"
            lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdict_of(
    slow_down: float, spread: float, outliers: float, random: np.random.Generator
) -> PairedVerdict:
    verdict = PairedVerdict(IGNORE, MARGIN, ALPHA, BETA, COMPARISONS, MAX_PAIRS)
    while not verdict.finished:
        far = 5.0 if random.random() < outliers else 1.0
        verdict.add(float(np.log1p(slow_down) + far * spread * random.normal()))
    return verdict
