"""One turn of a cell, and what a cell's turns say together: its samples and its surroundings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from suites.measure.measurement import Conditions, Samples
from suites.measure.meters.meter import Seen
from suites.measure.meters.surroundings import pooled

FREQUENCY = "machine_frequency_mhz"
FREQUENCY_TOLERANCE = 0.1
"""A block is marked when its clock is slower by more than this share than a quarter of the cell's
kept blocks reached. One reading apart says little; a clock that a quarter of the blocks had was
to be had."""


@dataclass(frozen=True)
class Block:
    """One turn's calls."""

    nanoseconds: np.ndarray
    """int64 ``(calls,)``."""
    seconds: float
    """That the turn lasted, re-warming included."""
    round_number: int
    """-1 during warm-up."""
    seen: Seen = field(default_factory=Seen)
    """What the meters saw around it."""

    @property
    def kept(self) -> bool:
        return self.round_number >= 0


def causes(blocks: Sequence[Block]) -> list[tuple[str, ...] | None]:
    """What disturbed each block; None where no meter could tell.

    Beside what the meters said of the block alone: a clock that fell behind the others'.
    """
    clocks = [b.seen.figures[FREQUENCY] for b in blocks if b.kept and FREQUENCY in b.seen.figures]
    floor = (1 - FREQUENCY_TOLERANCE) * float(np.quantile(clocks, 0.75)) if clocks else 0.0
    found: list[tuple[str, ...] | None] = []
    for block in blocks:
        clock = block.seen.figures.get(FREQUENCY)
        if clock is None or not clocks:
            found.append(block.seen.causes)
        else:
            slow = ("frequency",) if clock < floor else ()
            found.append((*(block.seen.causes or ()), *slow))
    return found


def samples_of(blocks: Sequence[Block]) -> Samples:
    """Every timed call in order of time."""
    lengths = [len(block.nanoseconds) for block in blocks]
    rounds = np.repeat(np.array([b.round_number for b in blocks], np.int32), lengths)
    words = [" + ".join(found or ()) for found in causes(blocks)]
    cause = np.repeat(np.array(words, object), lengths)
    return Samples(
        nanoseconds=np.concatenate(
            [np.empty(0, np.int64), *(block.nanoseconds for block in blocks)]
        ),
        warmup=rounds < 0,
        block=np.repeat(np.arange(len(blocks), dtype=np.int32), lengths),
        round=rounds,
        disturbed=cause != "",
        cause=cause,
    )


def conditions_of(blocks: Sequence[Block]) -> Conditions:
    """How the machine was during the kept blocks."""
    kept = [
        (block, found) for block, found in zip(blocks, causes(blocks), strict=True) if block.kept
    ]
    figures = pooled([block.seen for block, _ in kept], [block.seconds for block, _ in kept])
    if not kept or any(found is None for _, found in kept):
        return Conditions(figures=figures)
    counts: Counter[str] = Counter()
    for block, found in kept:
        for cause in found or ():
            counts[cause] += len(block.nanoseconds)
    return Conditions(
        disturbed_calls=sum(len(block.nanoseconds) for block, found in kept if found),
        disturbed_by=dict(counts),
        figures=figures,
    )
