"""The section of the page for requests that arrive by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports import serving, units
from reports.figures.load import load_figure
from reports.figures.marks import Marks
from reports.figures.svg import Markup, element, join
from reports.wording import build_name

Row = Mapping[str, Any]

FIGURE_NOTE = (
    "Solid lines are medians, dashed ones 99th percentiles where the sample supports them, "
    "whiskers 95 % intervals. A dashed upright line is a rate that saturated the build. Bars at "
    "the bottom reach from the rate shown to keep the SLO to the one shown to miss it."
)


def under_load(rows: Sequence[Row]) -> list[Markup]:
    """The figures and the table; empty where no row is of a load workload."""
    told = serving.load_rows(rows)
    if not told:
        return []
    marks = Marks(build_name(row) for row in told)
    places = dict.fromkeys((row["model"], row["device"]) for row in told)
    figures = []
    for model, device in places:
        group = [row for row in told if (row["model"], row["device"]) == (model, device)]
        if (drawn := load_figure(group, marks)) is not None:
            caption = None if len(places) == 1 else element("h3", f"{model} on {device}")
            figures.append(element("figure", caption, drawn))
    parts = []
    if figures:
        shown = element("div", join(figures), class_="pair")
        parts += [marks.legend(), shown, element("p", FIGURE_NOTE, class_="note")]
    return [*parts, _table(told)]


def _table(rows: Sequence[Row]) -> Markup:
    columns = serving.headings(rows, narrow=False)
    head = element("tr", join([element("th", title, scope="col") for title, _ in columns]))
    lines = []
    for row in rows:
        cells = [_cell(shown(row)) for _, shown in columns]
        lines.append(element("tr", join(cells), title=row.get("reason")))
    table = element("table", element("thead", head), element("tbody", join(lines)))
    return element("div", table, class_="scroll load-table")


def _cell(shown: str) -> Markup:
    number, interval = units.parted(shown)
    small = element("small", interval) if interval else None
    style = "dim" if shown in (units.NOTHING, "insufficient") else None
    return element("td", element("span", number, class_=style), small)
