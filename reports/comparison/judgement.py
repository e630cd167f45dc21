"""What a comparison says of one quantity, and what names the things that it speaks of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reports.columns import AXES

Row = Mapping[str, Any]
Pair = tuple[Row, Row]
"""One cell's row in the first run and in the second."""

Verdict = Literal["worse", "not comparable", "better", "same"]
VERDICTS: tuple[Verdict, ...] = ("worse", "not comparable", "better", "same")
"""The gravest first."""

BUILD = tuple(axis for axis in AXES if axis != "workload")
"""The axes that decide a build's answers and its size."""


@dataclass(frozen=True)
class Judgement:
    """One quantity of one cell or build in both runs."""

    where: str
    """The cell's label; that of a build has ``*`` for its workload; ``run`` for all of them."""
    metric: str
    verdict: Verdict
    before: str
    after: str
    seen: str
    """What was found, in one line."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind it."""


def measured(pair: Pair) -> bool:
    """Whether the cell was measured in both runs."""
    return all(row["status"] == "ok" for row in pair)


def builds(pairs: Iterable[Pair]) -> list[Pair]:
    """One pair a build: of its workloads the first that was measured in both runs, if any was."""
    grouped: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in pairs:
        grouped.setdefault(axes(pair[0], BUILD), []).append(pair)
    return [next(filter(measured, group), group[0]) for group in grouped.values()]


def axes(row: Row, names: Sequence[str] = AXES) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in names)


def cell_label(row: Row) -> str:
    return "/".join(map(str, axes(row)))


def build_label(row: Row) -> str:
    return cell_label({**row, "workload": "*"})
