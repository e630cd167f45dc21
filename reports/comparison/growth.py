"""Sizes of two runs' builds: bytes that grew or shrank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from reports import units
from reports.comparison.judgement import Judgement, Pair, Verdict, build_label, builds

MARGIN = 0.02
"""Relative changes up to this are the same: what a gate allows by default."""


def sizes(pairs: Iterable[Pair]) -> Iterator[Judgement]:
    """Each build's artifact, where both runs made it. Worse or better by more than the margin."""
    for old, new in builds(pairs):
        before, after = old.get("artifact_bytes"), new.get("artifact_bytes")
        if before is not None and after is not None:
            yield _grown(build_label(old), before, after)


def _grown(where: str, before: int, after: int) -> Judgement:
    # From nothing, any growth is infinite; nothing to nothing is none.
    growth = after / before - 1 if before else math.inf if after else 0.0
    verdict: Verdict = "same"
    if abs(growth) > MARGIN:
        verdict = "worse" if growth > 0 else "better"
    return Judgement(
        where,
        "size",
        verdict,
        units.binary(before),
        units.binary(after),
        f"{growth:+.1%}" if math.isfinite(growth) else "from nothing",
        {"before_bytes": before, "after_bytes": after, "margin": MARGIN},
    )
