"""What waiting costs: the time of requests against the rate at which they were offered."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from reports import serving
from reports.figures.axes import Frame
from reports.figures.marks import Marks
from reports.figures.scale import Scale, positive_scale
from reports.figures.svg import Markup, element, join
from reports.wording import build_name

Row = Mapping[str, Any]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 18, 34, 56
SATURATED_WIDTH = 64
LEVELS = ("e2el_p50", "e2el_p99")


def load_figure(rows: Sequence[Row], marks: Marks) -> Markup | None:
    """The open loops of one model on one device, and the capacities that were searched for; None
    where fewer than two rates have a latency. ``marks`` are those of the builds' names."""
    open_rows = [row for row in rows if row["load"] == "open" and _rate(row)]
    timed = [row for row in open_rows if row.get("e2el_p50_ms") is not None]
    if len(timed) < 2:
        return None
    found = [row for row in rows if row.get("capacity_requests_per_s") is not None]
    return _Plot(open_rows, timed, found, marks).draw()


def _rate(row: Row) -> float:
    return float(row.get("offered_requests_per_s") or 0.0)


class _Plot:
    def __init__(
        self,
        open_rows: Sequence[Row],
        timed: Sequence[Row],
        capacities: Sequence[Row],
        marks: Marks,
    ) -> None:
        self.timed, self.capacities, self.marks = timed, capacities, marks
        self.saturated = [r for r in open_rows if serving.saturated(r)]
        ends = [row.get("capacity_missed_requests_per_s") for row in capacities]
        ends += [row["capacity_requests_per_s"] for row in capacities]
        times = positive_scale(
            row.get(f"{level}{end}_ms")
            for row in timed
            for level in LEVELS
            for end in ("", "_low", "_high")
        )
        rates = Scale(0.0, 1.06 * max([_rate(r) for r in open_rows] + [e for e in ends if e]))
        self.frame = Frame(rates, times, WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM)

    def draw(self) -> Markup:
        names = dict.fromkeys(build_name(row) for row in self.timed)
        return element(
            "svg",
            element("title", "time of a request against the offered rate"),
            element("desc", f"{len(self.timed)} rates of {', '.join(names)}."),
            self.frame.axes(
                "offered, requests a second",
                "ms from intended arrival to answer" + (", log scale" if self.frame.y.log else ""),
            ),
            join([self._curve(name, level) for name in names for level in LEVELS]),
            self._all_saturated(),
            join([self._capacity(row, i) for i, row in enumerate(self.capacities)]),
            join([self._point(row) for row in self.timed]),
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            class_="plot",
        )

    def _curve(self, name: str, level: str) -> Markup:
        """A build's quantile over its rates; nothing between rates is claimed by the line."""
        rows = sorted((row for row in self.timed if build_name(row) == name), key=_rate)
        told = [row for row in rows if row.get(f"{level}_ms") is not None]
        colour = self.marks.colour(name)
        lines = []
        for first, second in itertools.pairwise(told):
            lines.append(
                element(
                    "line",
                    x1=self.frame.px(_rate(first)),
                    y1=self.frame.py(first[f"{level}_ms"]),
                    x2=self.frame.px(_rate(second)),
                    y2=self.frame.py(second[f"{level}_ms"]),
                    class_=f"whisker {colour}",
                    stroke_dasharray="4 4" if level != "e2el_p50" else None,
                )
            )
        return join(lines)

    def _point(self, row: Row) -> Markup:
        x, name = self.frame.px(_rate(row)), build_name(row)
        colour = self.marks.colour(name)
        parts = [element("title", _hover(row))]
        for level in LEVELS:
            value = row.get(f"{level}_ms")
            if value is None:
                continue
            low, high = row.get(f"{level}_low_ms"), row.get(f"{level}_high_ms")
            if low is not None and high is not None:
                parts.append(
                    element(
                        "line",
                        x1=x,
                        x2=x,
                        y1=self.frame.py(low),
                        y2=self.frame.py(high),
                        class_=f"whisker {colour}",
                    )
                )
            area, style = (110, "") if level == "e2el_p50" else (60, "behind")
            parts.append(self.marks.mark(name, area, x, self.frame.py(value), style))
        return element("g", join(parts))

    def _all_saturated(self) -> Markup:
        """Named where there is room for the word."""
        drawn, free = [], 0.0
        for row in sorted(self.saturated, key=_rate):
            x = self.frame.px(_rate(row))
            named = x - 8 - SATURATED_WIDTH >= free
            drawn.append(self._saturated(row, named))
            free = x + 6
        return join(drawn)

    def _saturated(self, row: Row, named: bool) -> Markup:
        """A rate that has no latency: a line to the top, and the mark above the frame."""
        x, name = self.frame.px(_rate(row)), build_name(row)
        line = element("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="limit")
        title = element("title", f"{name}: {row.get('reason')}")
        mark = self.marks.mark(name, 60, x, TOP - 6, "behind")
        text = element("text", "saturated", x=x - 8, y=TOP - 3, class_="note end")
        return element("g", title, line, mark, text if named else None)

    def _capacity(self, row: Row, number: int) -> Markup:
        """From the rate that was shown to keep the SLO to the one that was shown to miss it."""
        met = row["capacity_requests_per_s"]
        missed = row.get("capacity_missed_requests_per_s") or self.frame.x.high
        name = build_name(row)
        y = HEIGHT - BOTTOM - 8 - 11 * number
        colour = self.marks.colour(name)
        return element(
            "g",
            element("title", f"{name}: {serving.capacity(row)} keep {row.get('slo')}"),
            element(
                "rect",
                x=self.frame.px(met),
                y=y - 4,
                width=max(self.frame.px(missed) - self.frame.px(met), 2.0),
                height=8,
                class_=f"ridge {colour}",
            ),
            self.marks.mark(name, 50, self.frame.px(met), y),
        )


def _hover(row: Row) -> str:
    lines = [f"{build_name(row)}, {serving.offered(row)} offered"]
    lines += [f"{level.replace('e2el_', '')} {serving.time(row, level)}" for level in LEVELS]
    return "\n".join(lines)
