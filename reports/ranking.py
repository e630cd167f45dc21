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
class Ratio:
    """How many times another row's median time one row takes, or how many times as fast it is.

    From the rounds in which both took turns, with the 95 % interval of that ratio, where they
    were measured in one block. Otherwise from the two medians: ``low`` and ``high`` then divide
    the opposite ends of their intervals, which is wider, and are None where one lacks them.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def decided(self) -> bool:
        """Whether the interval lies on one side of 1: one of the two is known to be faster."""
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        return low > 1 or high < 1

    def within(self, margin: float) -> bool:
        """Whether it is known to be at most ``margin``."""
        return (self.value if self.high is None else self.high) <= margin

    def __str__(self) -> str:
        return f"{self.value:.2f}x" + units.interval(self.low, self.high, 1, 2)


def time_ratio(row: Row, other: Row) -> Ratio | None:
    """``row``'s median time over ``other``'s; None where nothing compares them."""
    if row is other:
        return Ratio(1.0, 1.0, 1.0)
    if (shared := compared(row).get(other["cell_id"])) is not None:
        return Ratio(*shared)
    mine, theirs = row.get("latency_p50_ms"), other.get("latency_p50_ms")
    if mine is None or not theirs:
        return None

    def over(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    return Ratio(
        mine / theirs,
        over(row.get("latency_p50_low_ms"), other.get("latency_p50_high_ms")),
        over(row.get("latency_p50_high_ms"), other.get("latency_p50_low_ms")),
    )


def compared(row: Row) -> Mapping[str, tuple[float, float, float]]:
    """The row's ratios to the cells that took turns with it, by their ids."""
    text = row.get("compared")
    return {id: (r[0], r[1], r[2]) for id, r in json.loads(text).items()} if text else {}


def was_timed(row: Row) -> bool:
    """Whether the row's speed is known, by itself or relative to other cells."""
    timed = row.get("latency_p50_ms") is not None or bool(row.get("compared"))
    return row["status"] == "ok" and timed


def relative_times(rows: Sequence[Row]) -> dict[int, float]:
    """By ``id(row)``: its median time relative to one of the rows, so that the smallest is the
    fastest.

    Rows that nothing compares with that one directly are compared by way of others (two blocks
    through any pair with medians); infinite for a row that no way leads to.
    """
    timed = [row for row in rows if was_timed(row)]
    times = dict.fromkeys(map(id, timed), float("inf"))
    if not timed:
        return times
    pivot = max(timed, key=lambda row: (len(compared(row)), row.get("latency_p50_ms") is not None))
    known = [pivot]
    times[id(known[0])] = 1.0
    for reached in known:  # grows while it is walked
        for row in timed:
            if times[id(row)] == float("inf") and (ratio := time_ratio(row, reached)) is not None:
                times[id(row)] = ratio.value * times[id(reached)]
                known.append(row)
    return times


def size(row: Row) -> float:
    """The artifact's bytes; infinite where they are unknown, so that a known size goes first."""
    size = row.get("artifact_bytes")
    return float("inf") if size is None else size


def steps(row: Row) -> int:
    """How many transformations made the artifact."""
    lineage = row.get("lineage")
    return len(json.loads(lineage)) if lineage else 0
