"""One pair of fresh processes: a candidate and a baseline that take turns until they are compared.

What differs between two processes of the same build (where its memory came to lie, which of two
kernels was picked) is drawn anew with every pair, so that pairs are independent. What the machine
does meanwhile is shared: the two alternate in blocks so short that it hardly changes between them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from suites.measure.loop import Sampler
from suites.measure.meters.surroundings import Surroundings

SHORTEST_CALL_S = 1e-6
"""For which a block is planned: a call that reads nothing would have millions in a block."""


@dataclass(frozen=True)
class PairPlan:
    """How much is called in one pair."""

    warmup_s: float = 0.1
    """Each side's calls before the first block last at least this long, and are at least three."""
    rounds: int = 12
    """Each has one block of either side."""
    block_s: float = 0.02
    """About how long a block lasts; at least one call."""
    rewarm_calls: int = 1
    """Untimed calls at the start of each block, because the other side ran in between."""


@dataclass(frozen=True)
class PairSample:
    """What one pair showed."""

    difference: float
    """``log(candidate / baseline)``."""
    candidate_ns: np.ndarray
    baseline_ns: np.ndarray
    """int64 ``(rounds,)``: the median call of each block."""
    candidate_first: bool
    calls: int
    """Timed, of both sides together."""
    seconds: float
    """That those calls took, warm-up included."""
    others_cores: float | None
    """Cores that other processes used in the rounds; None where it cannot be read."""


def measure_pair(
    candidate: Sampler,
    baseline: Sampler,
    candidate_first: bool,
    plan: PairPlan,
    surroundings: Surroundings | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PairSample:
    """Let two samplers take turns. With ``a_r`` and ``b_r`` the median calls of round ``r``,

        d = median over r of (log a_r - log b_r)

    A median of ratios, not a ratio of medians: a neighbour that slows some rounds by half slows
    both sides of each, and one that strikes within a round spoils that round alone. The side that
    goes first alternates from round to round, and ``candidate_first``, a coin, says which begins.

    ``surroundings`` are read before the first round and after the last. What they say explains a
    pair and decides nothing: to leave out the pairs that were disturbed would be to choose among
    them by what they have in common with their outcome.
    """
    around = surroundings or Surroundings([])
    sides = {True: candidate, False: baseline}
    order = (candidate_first, not candidate_first)
    timed = calls = 0
    call_s = 0.0
    for side in order:
        seen, median = _warmed(sides[side], plan, clock)
        timed += int(seen.sum())
        calls += len(seen)
        call_s = max(call_s, median / 1e9)
    block = max(1, math.ceil(plan.block_s / max(call_s, SHORTEST_CALL_S)))
    medians: dict[bool, list[float]] = {True: [], False: []}
    before, began = around.read(), clock()
    for number in range(plan.rounds):
        for side in order if number % 2 == 0 else reversed(order):
            nanoseconds = sides[side].sample(block, plan.rewarm_calls)
            timed += int(nanoseconds.sum())
            calls += len(nanoseconds)
            # A call below the clock's tick reads 0, which has no logarithm.
            medians[side].append(max(float(np.median(nanoseconds)), 1.0))
    figures = around.seen(before, clock() - began).figures
    a, b = np.array(medians[True]), np.array(medians[False])
    return PairSample(
        difference=float(np.median(np.log(a) - np.log(b))),
        candidate_ns=a.astype(np.int64),
        baseline_ns=b.astype(np.int64),
        candidate_first=candidate_first,
        calls=calls,
        seconds=timed / 1e9,
        others_cores=figures.get("machine_others_cores"),
    )


def _warmed(
    sampler: Sampler, plan: PairPlan, clock: Callable[[], float]
) -> tuple[np.ndarray, float]:
    """The warm-up's calls, and the median of its later half."""
    start = clock()
    seen = sampler.sample(3, 0)
    while clock() - start < plan.warmup_s:
        left = plan.warmup_s - (clock() - start)
        more = max(1, min(1000, int(left / max(float(np.median(seen)) / 1e9, 1e-6))))
        seen = np.concatenate([seen, sampler.sample(more, 0)])
    return seen, float(np.median(seen[len(seen) // 2 :]))
