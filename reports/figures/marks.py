"""Marks that tell runtimes apart by shape and by colour, the same in every figure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from reports.figures.svg import Markup, element, join

COLOURS = 8
"""The page's style defines ``--c0`` .. ``--c7`` for light and for dark."""


def _polygon(corners: int, turn: float = 0.0, inner: float = 1.0) -> list[tuple[float, float]]:
    """A regular polygon, or a star when ``inner`` is below 1, of area 1."""
    points = []
    for i in range(corners):
        radius = 1.0 if i % 2 == 0 else inner
        angle = 2 * math.pi * i / corners + turn - math.pi / 2
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    area = abs(
        sum(
            x * points[(i + 1) % corners][1] - points[(i + 1) % corners][0] * y
            for i, (x, y) in enumerate(points)
        )
    )
    scale = math.sqrt(2 / area)
    return [(x * scale, y * scale) for x, y in points]


_SHAPES = (
    None,  # circle
    _polygon(4, math.pi / 4),
    _polygon(3),
    _polygon(4),
    _polygon(6, math.pi / 6),
    _polygon(3, math.pi),
    _polygon(10, 0.0, 0.5),
    _polygon(8, 0.0, 0.4),
)


class Marks:
    """A mark for each name, given in order of first appearance."""

    def __init__(self, names: Iterable[str]) -> None:
        self.index = {name: i for i, name in enumerate(dict.fromkeys(names))}

    def colour(self, name: str) -> str:
        """The class that gives a shape the name's colour."""
        return f"c{self.index[name] % COLOURS}"

    def mark(self, name: str, area: float, x: object = 0, y: object = 0, extra: str = "") -> Markup:
        """The name's shape of ``area`` square pixels at ``x``, ``y`` (numbers or percentages)."""
        shape = _SHAPES[self.index[name] % len(_SHAPES)]
        style = f"mark {self.colour(name)} {extra}".strip()
        if shape is None:
            drawn = element("circle", r=math.sqrt(area / math.pi), class_=style)
        else:
            side = math.sqrt(area)
            points = " ".join(f"{px * side:.1f},{py * side:.1f}" for px, py in shape)
            drawn = element("polygon", points=points, class_=style)
        return element("svg", drawn, x=x, y=y, overflow="visible")

    def legend(self) -> Markup:
        items = [
            element(
                "span",
                element("svg", self.mark(name, 70, 7, 7), width=14, height=14, aria_hidden="true"),
                element("span", name),
                class_="key",
            )
            for name in self.index
        ]
        return element("div", join(items), class_="legend")
