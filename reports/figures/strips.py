"""Figures of one row a build: a name, a strip on a shared axis, and the number in words.

Names and numbers are HTML, so that they keep their size on a narrow screen; the strip between
them is an SVG whose positions are percentages, so that it takes what room there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import units
from reports.figures.scale import Scale, tick_text
from reports.figures.svg import Markup, element, join

HEIGHT = 26
MIDDLE = HEIGHT / 2
_SHOWN = 30
"""Rows seen at first; the rest unfold."""


@dataclass(frozen=True)
class Strip:
    """One row."""

    name: Markup
    drawn: Markup
    value: Markup
    hover: str
    chosen: bool = False


def percent(position: float) -> str:
    return f"{100 * position:.2f}%"


def strips_figure(
    strips: Sequence[Strip], scale: Scale, axis: str, limits: Sequence[tuple[float, str]] = ()
) -> Markup:
    """All rows below one axis. ``limits`` are values with a style, drawn through every row."""
    ticks = scale.ticks()
    behind = join(
        [upright(scale, t, "zero" if t == 0 and scale.low < 0 else "grid") for t in ticks]
        + [upright(scale, value, style) for value, style in limits]
    )
    head = element(
        "div",
        element("span", axis, class_="axis-title"),
        element(
            "svg",
            join([_tick(scale(t), tick_text(t)) for t in ticks]),
            width="100%",
            height=18,
            aria_hidden="true",
            class_="ticks",
        ),
        element("span"),
        class_="strip head",
    )
    rows = [_row(strip, behind) for strip in strips]
    rest = None
    if len(rows) > _SHOWN:
        summary = element("summary", f"{len(rows) - _SHOWN} more")
        rest = element("details", summary, join(rows[_SHOWN:]))
    return element("div", head, join(rows[:_SHOWN]), rest, class_="strips")


def _row(strip: Strip, behind: Markup) -> Markup:
    svg = element(
        "svg",
        element("title", strip.hover),
        behind,
        strip.drawn,
        width="100%",
        height=HEIGHT,
        role="img",
    )
    style = "strip chosen" if strip.chosen else "strip"
    return element(
        "div",
        element("span", strip.name, class_="name"),
        svg,
        element("span", strip.value, class_="value"),
        class_=style,
    )


def upright(scale: Scale, value: float, style: str, inset: int = 0) -> Markup:
    """A line across the strip at a value, ``inset`` pixels short of its edges."""
    x = percent(scale(value))
    return element("line", x1=x, x2=x, y1=inset, y2=HEIGHT - inset, class_=style)


def _tick(position: float, label: str) -> Markup:
    anchor = "start" if position < 0.04 else "end" if position > 0.96 else "middle"
    return element("text", label, x=percent(position), y=13, class_=f"tick {anchor}")


def build_label(row: Mapping[str, Any]) -> Markup:
    """Recipe strong, runtime (and attention, where it was chosen) beside it."""
    attention = row.get("attention") or "default"
    where = row["runtime"] if attention == "default" else f"{row['runtime']} · {attention}"
    return join([element("b", row["recipe"]), Markup(" "), element("span", where, class_="dim")])


def number_beside_interval(shown: str) -> Markup:
    """A number in words, strong, and its interval in a paler tone."""
    number, interval = units.parted(shown)
    return join([element("b", number), element("span", interval, class_="dim interval")])


def whisker(scale: Scale, low: float | None, high: float | None, style: str) -> Markup | None:
    """An interval as a line with end caps."""
    if low is None or high is None:
        return None
    x1, x2 = percent(scale(low)), percent(scale(high))
    return join(
        [
            element("line", x1=x1, x2=x2, y1=MIDDLE, y2=MIDDLE, class_=style),
            element("line", x1=x1, x2=x1, y1=MIDDLE - 4, y2=MIDDLE + 4, class_=style),
            element("line", x1=x2, x2=x2, y1=MIDDLE - 4, y2=MIDDLE + 4, class_=style),
        ]
    )
