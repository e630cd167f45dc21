"""Accuracy drop of every build with its paired interval, against the drop that is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import units
from reports.decision import within
from reports.figures.marks import Marks
from reports.figures.scale import Scale
from reports.figures.strips import (
    MIDDLE,
    Strip,
    build_label,
    number_beside_interval,
    percent,
    strips_figure,
    upright,
    whisker,
)
from reports.figures.svg import Markup, element, join
from reports.wording import build_name

Row = Mapping[str, Any]


def accuracy_figure(
    rows: Sequence[Row], ships: Sequence[Row], allowed_drop: float, marks: Marks
) -> Markup | None:
    """Builds of one model and device, the smallest drop first; None where none has accuracy.

    Workloads share their accuracy: the first row of each build stands for it.
    """
    first: dict[str, Row] = {}
    for row in rows:
        if row.get("accuracy_drop") is not None:
            first.setdefault(build_name(row), row)
    builds = sorted(first.values(), key=lambda row: row["accuracy_drop"])
    if not builds:
        return None
    ends = [0.0, 150 * allowed_drop]
    for row in builds:
        for name in ("", "_low", "_high", "_bound"):
            name = f"accuracy_drop{name}"
            if row.get(name) is not None:
                ends.append(100 * row[name])
    room = 0.04 * (max(ends) - min(ends) or 1.0)
    scale = Scale(min(ends) - room, max(ends) + room)
    shipped = {build_name(row) for row in ships}
    strips = [
        Strip(
            name=build_label(row),
            drawn=_draw(row, scale, marks),
            value=_value(row, allowed_drop),
            hover=_hover(row),
            chosen=build_name(row) in shipped,
        )
        for row in builds
    ]
    return strips_figure(strips, scale, "points", [(100 * allowed_drop, "limit")])


def _draw(row: Row, scale: Scale, marks: Marks) -> Markup:
    colour = marks.colour(row["runtime"])
    low, high = row.get("accuracy_drop_low"), row.get("accuracy_drop_high")
    parts = []
    if low is not None and high is not None:
        parts.append(whisker(scale, 100 * low, 100 * high, f"whisker {colour}"))
    if (bound := row.get("accuracy_drop_bound")) is not None:
        parts.append(upright(scale, 100 * bound, "bound", inset=6))
    parts.append(marks.mark(row["runtime"], 64, percent(scale(100 * row["accuracy_drop"])), MIDDLE))
    return join([part for part in parts if part is not None])


def _value(row: Row, allowed_drop: float) -> Markup:
    bound = row.get("accuracy_drop_bound")
    if row["accuracy_drop"] > allowed_drop:
        verdict, style = "✕ over", "bad"
    elif bound is None or not within(bound, allowed_drop):
        verdict, style = "? not shown", "open"
    else:
        verdict, style = "✓ within", "good"
    return join(
        [
            number_beside_interval(units.bare_drop(row)),
            Markup(" "),
            element("span", verdict, class_=f"verdict {style}"),
        ]
    )


def _hover(row: Row) -> str:
    lines = [f"{units.drop_name(row)} {units.accuracy_drop(row)}"]
    if row.get("accuracy_drop_bound") is not None:
        bound = units.points(row["accuracy_drop_bound"])
        lines.append(f"one-sided 95 % bound {bound} points")
    if row.get("metric_value") is not None:
        reference = row.get("metric_reference")
        beside = "" if reference is None else f" (reference {units.number(reference)})"
        lines.append(f"{row.get('metric') or 'metric'} {units.number(row['metric_value'])}{beside}")
    if row.get("examples") is not None:
        flips = row.get("flips")
        lines.append(
            f"{row['examples']:,} examples" + ("" if flips is None else f", {flips:,} flips")
        )
    return "\n".join(lines)
