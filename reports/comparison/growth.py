"""Sizes and memory of two runs: bytes that grew or shrank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from reports import units
from reports.comparison import agreement
from reports.comparison.judgement import (
    Judgement,
    Pair,
    Verdict,
    build_label,
    builds,
    cell_label,
    measured,
)

MARGINS = {"size": 0.02, "memory peak": 0.10, "memory waste": 0.10}
"""Relative changes up to these are the same: what a gate allows by default."""
MEMORY_FLOOR = 2**20
"""Bytes up to which memory is the same: a resident set is counted in pages, and libraries load as
they are needed."""
MEMORY = {"memory peak": "memory_peak_bytes", "memory waste": "memory_waste_bytes"}


def sizes(pairs: Iterable[Pair]) -> Iterator[Judgement]:
    """Each build's artifact, where both runs made it."""
    for old, new in builds(pairs):
        before, after = old.get("artifact_bytes"), new.get("artifact_bytes")
        if before is not None and after is not None:
            yield _grown(build_label(old), "size", before, after, floor=0)


def memory(pairs: Iterable[Pair]) -> Iterator[Judgement]:
    """Each cell that was measured in both runs."""
    for old, new in filter(measured, pairs):
        unlike = [
            *agreement.contracts(old, new, agreement.MEMORY_CONTRACT),
            *agreement.workloads(old, new),
        ]
        for metric, column in MEMORY.items():
            before, after = old.get(column), new.get(column)
            if before is None and after is None:
                continue
            if unlike or before is None or after is None:
                why = agreement.listed(unlike) or "one of the runs does not tell"
                shown = units.binary(before), units.binary(after)
                yield Judgement(cell_label(new), metric, "not comparable", *shown, why)
            else:
                yield _grown(cell_label(new), metric, before, after, floor=MEMORY_FLOOR)


def _grown(where: str, metric: str, before: int, after: int, floor: int) -> Judgement:
    """Worse or better by more than the margin and more than ``floor`` bytes."""
    # From nothing, any growth is infinite; nothing to nothing is none.
    growth = after / before - 1 if before else math.inf if after else 0.0
    margin = MARGINS[metric]
    verdict: Verdict = "same"
    if abs(after - before) > max(margin * before, floor):
        verdict = "worse" if after > before else "better"
    return Judgement(
        where,
        metric,
        verdict,
        units.binary(before),
        units.binary(after),
        f"{growth:+.1%}" if math.isfinite(growth) else "from nothing",
        {"before_bytes": before, "after_bytes": after, "margin": margin, "floor_bytes": floor},
    )
