"""The frame of a plot: from values to places in it, its grid, ticks and titles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reports.figures.scale import Scale, tick_text
from reports.figures.svg import Markup, element, join


@dataclass(frozen=True)
class Frame:
    """A plot's size and margins in pixels, and the scales of its two axes."""

    x: Scale
    y: Scale
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    def px(self, value: float) -> float:
        """Where a value of the horizontal axis lies, clipped to the frame."""
        return self.left + self.x(value) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        return self.height - self.bottom - self.y(value) * (self.height - self.top - self.bottom)

    def axes(
        self,
        across: str,
        up: str,
        has_room: Callable[[float], bool] = lambda y: True,
        zero_line: bool = False,
    ) -> Markup:
        """Grid, ticks and the two titles. ``has_room`` says of a height whether nothing else is
        written beside it; with ``zero_line`` the zero of the vertical axis stands out."""
        bottom, right = self.height - self.bottom, self.width - self.right
        parts = []
        for tick in self.x.ticks():
            x = self.px(tick)
            parts.append(element("line", x1=x, x2=x, y1=self.top, y2=bottom, class_="grid"))
            parts.append(element("text", tick_text(tick), x=x, y=bottom + 17, class_="tick middle"))
        for tick in self.y.ticks():
            y, style = self.py(tick), "zero" if zero_line and tick == 0 else "grid"
            parts.append(element("line", x1=self.left, x2=right, y1=y, y2=y, class_=style))
            if has_room(y):
                place = {"x": self.left - 8, "y": y + 4}
                parts.append(element("text", tick_text(tick), **place, class_="tick end"))
        middle = (self.top + bottom) / 2
        below = {"x": (self.left + right) / 2, "y": self.height - 10}
        parts.append(element("text", across, **below, class_="axis-title middle"))
        turned = {"x": 14, "y": middle, "transform": f"rotate(-90 14 {middle:.0f})"}
        parts.append(element("text", up, **turned, class_="axis-title middle"))
        return join(parts)
