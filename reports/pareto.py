"""Which builds are worth a look: those that no other one beats on both counts."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point dominates, by rising first coordinate.

    Both coordinates are costs: smaller is better. A point dominates another if it is no worse in
    both and better in at least one, so that equal points stay together. A point with a NaN is
    neither on the front nor dominates. O(n log n): a sweep by the first coordinate that keeps the
    smallest second one (Kung, Luccio and Preparata 1975).
    """
    known = [i for i, (x, y) in enumerate(points) if not (math.isnan(x) or math.isnan(y))]
    front: list[int] = []
    for i in sorted(known, key=lambda i: points[i]):
        if not front or points[i][1] < points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front
