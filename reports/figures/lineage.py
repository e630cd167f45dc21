"""How each artifact was made: its steps in order, and what they left of its size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from reports import units
from reports.figures.svg import Markup, element, join

Row = Mapping[str, Any]


def lineage_figure(rows: Sequence[Row]) -> Markup | None:
    """A line for each artifact of one model; None where no row has a lineage.

    Every step is a bar as long as the artifact was after it.
    """
    chains: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if steps := _steps(row):
            chains.setdefault((row["recipe"], row["lineage"]), steps)
    if not chains:
        return None
    largest = max(step.get("bytes") or 0 for steps in chains.values() for step in steps) or 1
    lines = [
        element(
            "div",
            element("b", recipe, class_="name"),
            element("ol", join([_step(step, largest) for step in steps]), class_="chain"),
            class_="lineage-row",
        )
        for (recipe, _), steps in chains.items()
    ]
    return element("div", join(lines), class_="lineage")


def _steps(row: Row) -> list[dict[str, Any]]:
    """The lineage's steps, or none where the column holds something else."""
    try:
        steps = json.loads(row.get("lineage") or "[]")
    except ValueError:
        return []
    return [s for s in steps if isinstance(s, dict)] if isinstance(steps, list) else []


def _step(step: Mapping[str, Any], largest: float) -> Markup:
    size = step.get("bytes")
    share = 0.0 if size is None else 100 * size / largest
    took = step.get("seconds")
    return element(
        "li",
        element("span", str(step.get("step", "?")), class_="step"),
        element(
            "span",
            units.binary(size) + ("" if took is None else f" · {units.seconds(took)}"),
            class_="dim",
        ),
        element(
            "svg",
            element("rect", width="100%", height=6, class_="track"),
            element("rect", width=f"{share:.1f}%", height=6, class_="m-weights"),
            width="100%",
            height=6,
            aria_hidden="true",
        ),
        title=_details(step),
    )


def _details(step: Mapping[str, Any]) -> str:
    lines = []
    for kind in ("parameters", "facts"):
        values = step.get(kind)
        if isinstance(values, Mapping):
            lines += [f"{name}: {_short(value)}" for name, value in values.items()]
    return "\n".join(lines)


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value)
    return shown if len(shown) <= 80 else shown[:79] + "…"
