"""What a build costs beside time: the vertical axis of the trade-off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """A number of a row, smaller is better, with the columns of its interval where it has one."""

    title: str
    short: str
    value: Callable[[Row], float | None]
    low: str = ""
    high: str = ""
    scale: float = 1.0

    def ends(self, row: Row) -> tuple[float, float] | None:
        low, high = row.get(self.low), row.get(self.high)
        return None if low is None or high is None else (low * self.scale, high * self.scale)


def _times(name: str, factor: float) -> Callable[[Row], float | None]:
    return lambda row: None if row.get(name) is None else row[name] * factor


def _disagreement(row: Row) -> float | None:
    agreement = row.get("top1_agreement")
    return None if agreement is None else 100 * (1 - agreement)


DROP = Cost(
    "accuracy drop, points (lower is better)",
    "accuracy drop",
    _times("accuracy_drop", 100),
    "accuracy_drop_low",
    "accuracy_drop_high",
    100,
)
COSTS = (
    DROP,
    Cost("predictions unlike the reference's, %", "unlike, %", _disagreement),
    Cost("relative error of the outputs, %", "error, %", _times("relative_error", 100)),
    Cost("artifact, MiB", "MiB", _times("artifact_bytes", 1 / 2**20)),
)
"""The figure shows the first of these that its rows have."""
