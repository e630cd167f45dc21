"""What came out, as a Markdown table: a row for each contender and cell, measured or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

TITLES = (
    "cell",
    "benchmark",
    "reported, ms",
    "over the bare loop",
    "over the settled loop",
    "wall, s",
    "spread",
)


@dataclass(frozen=True)
class Turn:
    """One cell through one benchmark, once."""

    contender: str
    cell: str
    wall_s: float
    """From the start of its process to the end, by which time it has written its report."""
    reported_ms: float | None
    """None where it reported no latency; ``reason`` then says why."""
    bare_ms: float | None = None
    """The bare loop's median around the turn (mean of the one before and the one after)."""
    settled_ms: float | None = None
    """The same of the loop whose C allocator is settled as a worker's is."""
    reason: str | None = None


def table(turns: Sequence[Turn], cells: Iterable[str], contenders: Sequence[str]) -> str:
    """Latency ratios and wall times as ``median (lower, upper quartile)`` over the turns.

    Every contender has a row for every cell. One that was never measured says why; one that was
    measured in part of its turns says in how many.
    """
    rows = [TITLES, ("---",) * len(TITLES)]
    for cell in cells:
        for contender in contenders:
            own = [t for t in turns if (t.cell, t.contender) == (cell, contender)]
            rows.append((cell, contender, *_figures(own)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def spread(values: Iterable[float]) -> float | None:
    """Median absolute deviation over the median, unscaled; None of fewer than two values."""
    values = np.array(list(values))
    if len(values) < 2:
        return None
    middle = np.median(values)
    return float(np.median(np.abs(values - middle)) / middle)


def _figures(turns: Sequence[Turn]) -> tuple[str, ...]:
    if not turns:
        return ("not measured: the run ended before its turn", *"––––")
    measured = [t for t in turns if t.reported_ms is not None]
    wall = _quartiles([t.wall_s for t in turns], 1)
    if not measured:
        return (f"not measured: {_reason(turns)}", "–", "–", wall, "–")
    reported = [t.reported_ms for t in measured if t.reported_ms is not None]
    shown = f"{np.median(reported):.2f}"
    if len(measured) < len(turns):
        shown += f" in {len(measured)} of {len(turns)} runs; else: {_reason(turns)}"
    deviation = spread(reported)
    return (
        shown,
        _ratios(measured, lambda turn: turn.bare_ms),
        _ratios(measured, lambda turn: turn.settled_ms),
        wall,
        "–" if deviation is None else f"{deviation:.1%}",
    )


def _ratios(turns: Sequence[Turn], loop: Callable[[Turn], float | None]) -> str:
    found = [
        turn.reported_ms / bare
        for turn in turns
        if turn.reported_ms is not None and (bare := loop(turn)) is not None
    ]
    return _quartiles(found, 3) if found else "–"


def _quartiles(values: Sequence[float], digits: int) -> str:
    low, middle, high = (f"{q:.{digits}f}" for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return f"{middle} ({low}, {high})"


def _reason(turns: Sequence[Turn]) -> str:
    """The most frequent one, on one line that leaves the table whole."""
    reasons = Counter(turn.reason for turn in turns if turn.reason)
    text = reasons.most_common(1)[0][0] if reasons else "no reason was given"
    return " ".join(text.split()).replace("|", "\\|")
