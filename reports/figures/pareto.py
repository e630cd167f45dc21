"""The trade-off: latency against accuracy drop, size as area, the Pareto front drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports import units
from reports.figures.axes import Frame
from reports.figures.cost import COSTS, DROP, Cost
from reports.figures.labels import Box, place_label, text_width
from reports.figures.marks import Marks
from reports.figures.scale import Scale, positive_scale, round_up
from reports.figures.speed import Speed, speed_of
from reports.figures.strips import build_label
from reports.figures.svg import Markup, element, join
from reports.pareto import pareto_front
from reports.ranking import was_timed
from reports.wording import build_name

Row = Mapping[str, Any]

WIDTH, HEIGHT = 560, 420
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 16, 50
_OVER = "over the allowed drop"
_LARGEST_AREA, _SMALLEST_AREA = 620.0, 40.0


def pareto_figure(
    rows: Sequence[Row],
    ship: Row | None,
    allowed_drop: float,
    marks: Marks,
    unranked: Sequence[Row] = (),
    baseline: Row | None = None,
) -> Markup | None:
    """The figure of one model, workload and device; None where no row has both coordinates.

    ``unranked`` rows are shown, and have no part in the front. ``baseline`` is what times are
    relative to where some builds have none of their own.
    """
    speed = speed_of(rows, baseline)
    rows = [row for row in rows if was_timed(row) and speed.value(row)]
    for cost in COSTS:
        if known := [row for row in rows if _is_known(cost.value(row))]:
            figure = _Figure(cost, speed, known, ship, allowed_drop, marks, unranked)
            return element("div", figure.draw(), figure.front_table(), class_="pair")
    return None


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


class _Figure:
    def __init__(
        self,
        cost: Cost,
        speed: Speed,
        rows: list[Row],
        ship: Row | None,
        allowed_drop: float,
        marks: Marks,
        unranked: Sequence[Row],
    ) -> None:
        self.cost, self.speed, self.rows = cost, speed, rows
        self.ship, self.marks = ship, marks
        self.limit = 100 * allowed_drop if cost is DROP else None
        self.times = [speed.value(row) or math.nan for row in rows]
        ends = [end for row in rows for end in speed.ends(row) or ()]
        self.values = [float(cost.value(row) or 0.0) for row in rows]
        self.frame = Frame(
            positive_scale([*self.times, *ends]),
            self._vertical(),
            *(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
        )
        self.largest = max((row.get("artifact_bytes") or 0 for row in rows), default=0) or 1
        self.unranked = [any(row is other for other in unranked) for row in rows]
        points = [
            (math.nan if aside else time, value)
            for time, value, aside in zip(self.times, self.values, self.unranked, strict=True)
        ]
        self.front = pareto_front(points)

    def _vertical(self) -> Scale:
        """Room for every value, except that a few far out do not squeeze all the others.

        Upper ends of intervals are cut off at the frame: what decides is near the limit.
        """
        lows = [ends[0] for row in self.rows if (ends := self.cost.ends(row))]
        lowest = min([0.0, *self.values, *(max(low, -(self.limit or 0.0)) for low in lows)])
        highest = max([*self.values, (self.limit or 0) * 1.6])
        if self.limit:
            highest = min(highest, max(6 * self.limit, sorted(self.values)[len(self.values) // 2]))
        step = round_up(((highest - lowest) or 1.0) / 5)
        room = 0.06 * ((highest - lowest) or 1.0)
        return Scale(lowest - room, max(highest + room, lowest + step))

    def draw(self) -> Markup:
        ship = "" if self.ship is None else f" Shipping {build_name(self.ship)}."
        described = (
            f"{len(self.rows)} builds, {len(self.front)} of them on the Pareto front: "
            + ", ".join(build_name(self.rows[i]) for i in self.front)
            + f".{ship}"
        )
        return element(
            "svg",
            element("title", f"{self.speed.axis} against {self.cost.title}"),
            element("desc", described),
            self._limit_area(),
            self._axes(),
            self._front_line(),
            join([self._whiskers(i) for i in range(len(self.rows))]),
            join([self._point(i) for i in self._back_to_front()]),
            self._labels(),
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            class_="plot",
        )

    def front_table(self) -> Markup:
        """The builds on the front in words, the fastest first."""
        heads = [element("th", name, scope="col") for name in ("Pareto front", "time", "size")]
        heads.insert(2, element("th", self.cost.short, scope="col"))
        lines = []
        for i in self.front:
            row = self.rows[i]
            drop = units.accuracy_drop(row) if self.cost is DROP else f"{self.values[i]:.3g}"
            cells = [self.speed.text(row), drop, units.binary(row.get("artifact_bytes"))]
            lines.append(
                element(
                    "tr",
                    element("td", build_label(row)),
                    join([element("td", cell, class_="num") for cell in cells]),
                    class_="chosen" if row is self.ship else None,
                )
            )
        head = element("thead", element("tr", join(heads)))
        return element("table", head, element("tbody", join(lines)), class_="front-table")

    def _area(self, row: Row) -> float:
        share = (row.get("artifact_bytes") or 0) / self.largest
        return max(_LARGEST_AREA * share, _SMALLEST_AREA)

    def _back_to_front(self) -> list[int]:
        """Large marks first, so that none hides a smaller one; the shipped one last."""
        return sorted(
            range(len(self.rows)),
            key=lambda i: (self.rows[i] is self.ship, -self._area(self.rows[i])),
        )

    def _limit_area(self) -> Markup | None:
        if self.limit is None or not self.frame.y.low < self.limit < self.frame.y.high:
            return None
        bottom, right = self.frame.py(self.limit), WIDTH - RIGHT
        height, width = bottom - TOP, right - LEFT
        return join(
            [
                element("rect", x=LEFT, y=TOP, width=width, height=height, class_="forbidden"),
                element("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="limit"),
                element("text", _OVER, x=right - 8, y=TOP + 18, class_="note end"),
                element("text", f"{self.limit:g}", x=LEFT - 8, y=bottom + 4, class_="note end"),
            ]
        )

    def _axes(self) -> Markup:
        scale = ", log scale" if self.frame.x.log else ""
        return self.frame.axes(
            f"{self.speed.axis}{scale} (lower is better)",
            self.cost.title,
            has_room=lambda y: self.limit is None or abs(y - self.frame.py(self.limit)) > 12,
            zero_line=True,
        )

    def _front_line(self) -> Markup | None:
        """A staircase: whatever lies right of it and above, some build on it is as good."""
        if not self.front:
            return None
        path: list[str] = []
        last_y = 0.0
        for i in self.front:
            x, y = self.frame.px(self.times[i]), self.frame.py(self.values[i])
            path.append(f"L{x:.1f},{last_y:.1f}L{x:.1f},{y:.1f}" if path else f"M{x:.1f},{y:.1f}")
            last_y = y
        path.append(f"L{WIDTH - RIGHT},{last_y:.1f}")
        return element("path", d="".join(path), class_="front")

    def _whiskers(self, i: int) -> Markup:
        row, x, y = self.rows[i], self.frame.px(self.times[i]), self.frame.py(self.values[i])
        style = f"whisker {self.marks.colour(row['runtime'])}"
        if i not in self.front and row is not self.ship:
            style += " behind"
        parts = []
        if (sides := self.speed.ends(row)) is not None:
            left, right = (self.frame.px(end) for end in sides)
            parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_=style))
        if (ends := self.cost.ends(row)) is not None:
            low, high = (self.frame.py(end) for end in ends)
            parts.append(element("line", x1=x, x2=x, y1=low, y2=high, class_=style))
        return join(parts)

    def _point(self, i: int) -> Markup:
        row = self.rows[i]
        x, y = self.frame.px(self.times[i]), self.frame.py(self.values[i])
        shipped = row is self.ship
        extra = "unranked" if self.unranked[i] else "front-mark" if i in self.front else "behind"
        parts = [
            element("title", hover(row)),
            self.marks.mark(row["runtime"], self._area(row), x, y, extra),
        ]
        if self.values[i] > self.frame.y.high:
            arrow = f"M{x - 4:.1f},{TOP + 2}L{x:.1f},{TOP - 6}L{x + 4:.1f},{TOP + 2}Z"
            parts.append(element("path", d=arrow, class_="beyond"))
        if shipped:
            radius = math.sqrt(self._area(row) / math.pi) + 6
            parts.append(element("circle", cx=x, cy=y, r=radius, class_="ship-ring"))
        return element("g", join(parts))

    def _labels(self) -> Markup:
        """Names beside the marks, where they fit: the shipped build, the front, then the rest."""
        places = [
            (self.frame.px(time), self.frame.py(value), math.sqrt(self._area(row)) / 2)
            for row, time, value in zip(self.rows, self.times, self.values, strict=True)
        ]
        taken = [Box(x - r, y - r, x + r, y + r) for x, y, r in places]
        if self.limit is not None:
            right = WIDTH - RIGHT
            taken.append(Box(right - 12 - text_width(_OVER, 12), TOP, right, TOP + 24))
        bounds = Box(LEFT + 2, TOP + 2, WIDTH - RIGHT, HEIGHT - BOTTOM - 2)
        parts = []
        order = sorted(
            range(len(self.rows)),
            key=lambda i: (self.rows[i] is not self.ship, i not in self.front, self.values[i]),
        )
        for i in order:
            important = i in self.front or self.rows[i] is self.ship
            name = label_text(self.rows[i]["recipe"])
            if self.values[i] > self.frame.y.high:
                name += f" ({self.values[i]:.3g})"
            size = 12.5 if important else 11
            x, y, r = places[i]
            width = text_width(name, size * 1.08 if important else size) + 4
            box = place_label((x, y, r), width, size, taken, bounds, far=important)
            if box is None:
                continue
            taken.append(box)
            if not box.touches(Box(x - r - 12, y - r - 12, x + r + 12, y + r + 12)):
                near = min(max(x, box.left), box.right)
                edge = box.top if box.top > y else box.bottom
                parts.append(element("line", x1=x, y1=y, x2=near, y2=edge, class_="leader"))
            style = "label strong" if important else "label"
            parts.append(element("text", name, x=box.left + 2, y=box.bottom - 3, class_=style))
        return element("g", join(parts), aria_hidden="true")


def hover(row: Row) -> str:
    """What pointing at a row's mark says."""
    lines = [build_name(row), f"p50 {units.latency(row)}"]
    if row.get("accuracy_drop") is not None:
        lines.append(f"{units.drop_name(row)} {units.accuracy_drop(row)}")
    if row.get("artifact_bytes") is not None:
        lines.append(f"artifact {units.binary(row['artifact_bytes'])}")
    return "\n".join(lines)


def label_text(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"
