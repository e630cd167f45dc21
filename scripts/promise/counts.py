"""What came out of recorded gates, and of thousands more that are made of their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.promise.gates import ALPHA, BETA, IGNORE, MARGIN, MAX_GROWTH, MAX_PAIRS, Kind
from suites.gate.verdict import PairedVerdict, fast_enough_evidence, slower_evidence

REPLAYS = 2000


def show(gates: Sequence[dict[str, Any]], replays: int = REPLAYS) -> str:
    """Markdown: the counts, and what they rest on."""
    titles = [
        "slow-down",
        "comparisons",
        "neighbours",
        "gates",
        "REGRESSED",
        "all PASS",
        "INCONCLUSIVE",
        "a pair's noise",
        "pairs a comparison: median, largest",
        "s a gate: median, largest",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for kind in sorted({Kind.of(each) for each in gates}):
        mine = [each for each in gates if Kind.of(each) == kind]
        outcomes = [{cell["outcome"] for cell in each["cells"]} for each in mine]
        pairs = [len(cell["differences"]) for each in mine for cell in each["cells"]]
        seconds = [each["seconds"] for each in mine]
        counts = [
            sum("regressed" in each for each in outcomes),
            sum(each == {"pass"} for each in outcomes),
            sum("inconclusive" in each and "regressed" not in each for each in outcomes),
        ]
        cells = [f"{kind.slow_down:.0%}", str(kind.comparisons), str(kind.neighbours)]
        cells += [str(len(mine)), *map(str, counts), f"{_noise(mine):.1%}"]
        cells += [f"{np.median(pairs):.0f}, {max(pairs)}"]
        cells += [f"{np.median(seconds):.0f}, {max(seconds):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    same = [cell for each in gates if not each["slow_down"] for cell in each["cells"]]
    if not same:
        return "\n".join(lines)
    lines += _peaks([cell for cell in same if cell.get("peak_bytes")])
    pooled = np.concatenate([cell["differences"] for cell in same])
    medians = np.array([np.median(cell["differences"]) for cell in same])
    # A pair of processes that serves several comparisons has several first calls to make.
    alone = [e for e in gates if not Kind.of(e).neighbours and Kind.of(e).comparisons == 1]
    own = [cell["pair_own_s"] for each in alone for cell in each["cells"]]
    lines += [
        "",
        f"Without a slow-down, {len(same)} comparisons of {len(pooled)} pairs: "
        f"{np.mean(pooled > 0):.1%} of the pairs say slower, median {np.median(pooled):+.2%}; "
        f"{np.sum(medians > 0)} comparisons have a positive median. "
        + (
            f"Without neighbours a pair of one comparison costs {np.median(own):.2f} s beyond its "
            "timed calls."
            if own
            else ""
        ),
        "",
        f"Of {replays} replays, so many alarm (promised: at most {ALPHA:.0%}):",
        "",
        "| true slow-down | comparisons | stopping as a gate does | going on to pair "
        f"{MAX_PAIRS} in any case |",
        "|---|---|---|---|",
    ]
    for slow_down in (0.0, IGNORE):
        for comparisons in (1, 5):
            alarms = [
                replayed(same, comparisons, stops, slow_down, replays) for stops in (True, False)
            ]
            told = [f"{count} ({count / replays:.2%})" for count in alarms]
            lines.append(f"| {slow_down:.0%} | {comparisons} | {' | '.join(told)} |")
    return "\n".join(lines)


def _peaks(same: Sequence[dict[str, Any]]) -> list[str]:
    """How much the peaks of one build differ, between pairs and between what a rule looks at."""
    if not same:
        return []
    pairs = np.array([cell["peak_bytes"] for cell in same], np.float64)
    one = pairs[..., 0] / pairs[..., 1] - 1
    candidate, baseline = np.median(pairs, axis=1).T
    medians = candidate / baseline - 1
    outcomes = [cell["peak_outcome"] for cell in same]
    return [
        "",
        f"Peak memory of {len(same)} comparisons without a slow-down: a pair's growth is "
        f"{one.min():+.1%} to {one.max():+.1%}, that of the medians of {pairs.shape[1]} pairs "
        f"{medians.min():+.1%} to {medians.max():+.1%}. Held to {MAX_GROWTH:.0%}: "
        f"{outcomes.count('pass')} pass, {outcomes.count('inconclusive')} are inconclusive, "
        f"{outcomes.count('regressed')} regressed.",
    ]


def replayed(
    same: Sequence[dict[str, Any]],
    comparisons: int,
    stops: bool,
    slow_down: float = 0.0,
    replays: int = REPLAYS,
) -> int:
    """Alarms of gates that are put together from recorded comparisons, every pair's sign a coin.

    With ``stops`` each comparison ends as in a gate; without, it goes on to ``MAX_PAIRS`` whatever
    it has found, which gives a false alarm every chance. ``slow_down`` is added to every pair.
    """
    random = np.random.default_rng(0)
    return sum(
        any(
            _alarmed(_series(same, random) + np.log1p(slow_down), comparisons, stops)
            for _ in range(comparisons)
        )
        for _ in range(replays)
    )


def _series(same: Sequence[dict[str, Any]], random: np.random.Generator) -> np.ndarray:
    """Recorded comparisons one after the other, in random order, until there are enough pairs, and
    all signs drawn anew."""
    series: list[float] = []
    while len(series) < MAX_PAIRS:
        series += same[int(random.integers(len(same)))]["differences"]
    return np.array(series[:MAX_PAIRS]) * random.choice([-1.0, 1.0], MAX_PAIRS)


def _alarmed(series: np.ndarray, comparisons: int, stops: bool) -> bool:
    rule = PairedVerdict(IGNORE, MARGIN, ALPHA, BETA, comparisons, MAX_PAIRS)
    alarms = slower_evidence(series, IGNORE, MARGIN) >= rule.slower_needed
    if not alarms.any() or not stops:
        return bool(alarms.any())
    passes = fast_enough_evidence(series, MARGIN) >= rule.fast_enough_needed
    # Where both are reached by the same pair, slower is what counts.
    return not passes.any() or int(alarms.argmax()) <= int(passes.argmax())


def _noise(gates: Sequence[dict[str, Any]]) -> float:
    """How much pairs of one comparison differ by chance: the median absolute deviation from the
    comparison's median, over all pairs, as a standard deviation of normal noise."""
    series = [np.array(cell["differences"]) for each in gates for cell in each["cells"]]
    return float(1.4826 * np.median(np.concatenate([np.abs(d - np.median(d)) for d in series])))
