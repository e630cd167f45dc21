"""Ranking: whose clocks are alike, and how two rows compare in speed, size and steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import units
from reports.columns import CONTRACT

Row = Mapping[str, Any]

_RANKING_CONTRACT = tuple(name for name in CONTRACT if name != "contract_io_binding")
"""How arrays are bound is part of a runtime's speed; what the clock covers is not."""


def alike(measured: list[Row], reference_recipe: str) -> tuple[list[Row], list[tuple[Row, str]]]:
    """The largest set of rows whose clocks cover the same, and the rest with what differs.

    Between sets of one size, the one that holds the reference recipe.
    """
    sets: dict[tuple[Any, ...], list[Row]] = {}
    for row in measured:
        sets.setdefault(tuple(row.get(name) for name in _RANKING_CONTRACT), []).append(row)

    def weight(rows: list[Row]) -> tuple[int, bool]:
        return len(rows), any(row["recipe"] == reference_recipe for row in rows)

    ranked = max(sets.values(), key=weight)
    unranked = [
        (row, f"not ranked: {_difference(row, ranked[0], _RANKING_CONTRACT)}")
        for rows in sets.values()
        if rows is not ranked
        for row in rows
    ]
    return ranked, unranked


def _difference(row: Row, other: Row, names: Sequence[str]) -> str:
    return ", ".join(
        f"{name.removeprefix('contract_')} is {row.get(name)} where the others have "
        f"{other.get(name)}"
        for name in names
        if row.get(name) != other.get(name)
    )


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as another row: the ratio of the medians.

    ``low`` and ``high`` divide the opposite ends of the two intervals, which is wider than a 95 %
    interval of the ratio.
    """

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.2f}x" + units.interval(self.low, self.high, 1, 2)


def speedup(row: Row, over: Row) -> Speedup:
    """How many times as fast as ``over`` a row is; an end is None where an interval lacks it."""

    def ratio(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    return Speedup(
        p50(over) / p50(row) if p50(row) else float("inf"),
        ratio(over.get("latency_p50_low_ms"), row.get("latency_p50_high_ms")),
        ratio(over.get("latency_p50_high_ms"), row.get("latency_p50_low_ms")),
    )


def overlap(one: Row, other: Row) -> bool:
    """Whether the intervals of the medians meet: then neither row is known to be faster."""
    low, high = _ends(one)
    other_low, other_high = _ends(other)
    return low <= other_high and other_low <= high


def _ends(row: Row) -> tuple[float, float]:
    low, high = row.get("latency_p50_low_ms"), row.get("latency_p50_high_ms")
    return (p50(row) if low is None else low), (p50(row) if high is None else high)


def p50(row: Row) -> float:
    """The median latency in ms of a row that was measured."""
    return row["latency_p50_ms"]


def size(row: Row) -> float:
    """The artifact's bytes; infinite where they are unknown, so that a known size goes first."""
    size = row.get("artifact_bytes")
    return float("inf") if size is None else size


def steps(row: Row) -> int:
    """How many transformations made the artifact."""
    lineage = row.get("lineage")
    return len(json.loads(lineage)) if lineage else 0
