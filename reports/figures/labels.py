"""Where a label goes so that it covers neither a mark nor another label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def touches(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


_DIRECTIONS = [0, -45, 45, -90, 90, 180, -135, 135, -20, 20, -70, 70, -110, 110, 160, -160]
"""Degrees clockwise from the right, the preferred first."""


def place_label(
    mark: tuple[float, float, float],
    width: float,
    height: float,
    taken: Sequence[Box],
    bounds: Box,
    far: bool = False,
) -> Box | None:
    """The first free box around ``mark`` (x, y, radius), or None.

    Greedy: positions are tried from the nearest outwards, as in Christensen, Marks and Shieber
    (1995) but without moving a label once it is placed. ``far`` also tries places that need a
    line to the mark.
    """
    x, y, radius = mark
    for distance in (4, 8, 22, 40, 62, 86) if far else (4, 7):
        for degrees in _DIRECTIONS:
            across = math.cos(math.radians(degrees))
            down = math.sin(math.radians(degrees))
            centre_x = x + across * (radius + distance + width / 2)
            centre_y = y + down * (radius + distance + height / 2)
            box = Box(
                centre_x - width / 2,
                centre_y - height / 2 - 1,
                centre_x + width / 2,
                centre_y + height / 2 + 1,
            )
            if box.inside(bounds) and not any(box.touches(other) for other in taken):
                return box
    return None


def text_width(text: str, size: float) -> float:
    """Width in pixels, a little generous, without asking a font."""
    return sum(0.36 if c in "iljtf.,:;|!'()[] -" else 0.62 for c in text) * size
