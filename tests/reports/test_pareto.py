from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from reports.pareto import pareto_front

# Few distinct values, so that ties and equal points are common.
COST = st.one_of(st.integers(0, 6).map(float), st.just(math.nan), st.just(math.inf))


def brute_force(points: list[tuple[float, float]]) -> set[int]:
    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    known = [i for i, p in enumerate(points) if not any(map(math.isnan, p))]
    return {i for i in known if not any(dominates(points[j], points[i]) for j in known)}


@given(st.lists(st.tuples(COST, COST), max_size=30))
def test_pareto_front_equals_its_definition(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert set(front) == brute_force(points)
    assert len(set(front)) == len(front)
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_pareto_front_keeps_equal_points_together() -> None:
    assert pareto_front([(2, 1), (1, 2), (2, 1), (2, 2), (1, 3)]) == [1, 0, 2]


def test_pareto_front_is_empty_when_nothing_is_known() -> None:
    assert pareto_front([]) == []
    assert pareto_front([(math.nan, 1.0), (1.0, math.nan)]) == []
