"""The speed axis: each build's own median, or its time relative to one of the builds.

On a machine too restless for some builds' medians their ratios are known all the same, from the
rounds that they shared. Then all are drawn by those, and none is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import units
from reports.ranking import compared, time_ratio, was_timed
from reports.wording import build_name

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Speed:
    """How fast a group's builds are drawn to be; smaller is faster."""

    pivot: Row | None
    """The build that the others' times are relative to; None for milliseconds."""

    @property
    def axis(self) -> str:
        if self.pivot is None:
            return "median latency, ms"
        return f"time of one call, {build_name(self.pivot)} = 1"

    def value(self, row: Row) -> float | None:
        if self.pivot is None:
            return row.get("latency_p50_ms")
        ratio = time_ratio(row, self.pivot)
        return None if ratio is None else ratio.value

    def ends(self, row: Row) -> tuple[float, float] | None:
        """Both ends of the 95 % interval; None where one is missing."""
        if self.pivot is None:
            low, high = row.get("latency_p50_low_ms"), row.get("latency_p50_high_ms")
        else:
            ratio = time_ratio(row, self.pivot)
            low, high = (None, None) if ratio is None else (ratio.low, ratio.high)
        return None if low is None or high is None else (low, high)

    def text(self, row: Row) -> str:
        if self.pivot is None:
            return units.latency(row)
        ratio = time_ratio(row, self.pivot)
        return units.NOTHING if ratio is None else str(ratio)


def speed_of(rows: Sequence[Row], baseline: Row | None = None) -> Speed:
    """Milliseconds where every timed row has a median of its own; else relative to ``baseline``,
    or to the row that most others are compared with."""
    timed = [row for row in rows if was_timed(row)]
    if all(row.get("latency_p50_ms") is not None for row in timed):
        return Speed(None)
    if baseline is not None and compared(baseline):
        return Speed(baseline)
    return Speed(max(timed, key=lambda row: len(compared(row))))
