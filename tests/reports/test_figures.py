from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.figures.accuracy import accuracy_figure
from reports.figures.labels import Box, place_label
from reports.figures.latency import latency_figure
from reports.figures.lineage import lineage_figure
from reports.figures.marks import _SHAPES, Marks
from reports.figures.memory import memory_figure
from reports.figures.pareto import pareto_figure
from reports.figures.scale import Scale, positive_scale, tick_text
from reports.figures.speed import speed_of
from reports.figures.svg import Markup, element

MARKS = Marks(["onnxruntime-cpu", "openvino"])


def parsed(markup: str) -> ET.Element:
    return ET.fromstring(f"<root>{markup}</root>")


def positions(markup: str, tag: str, style: str, attribute: str) -> list[float]:
    """The attribute, in percent or pixels, of every element with that tag and class."""
    found = [
        node.get(attribute, "")
        for node in parsed(markup).iter(tag)
        if style in (node.get("class") or "").split()
    ]
    return [float(value.rstrip("%")) for value in found]


def test_element_escapes_text_and_attributes() -> None:
    made = element("a", "<b>&", Markup("<i></i>"), title="\"'<x>", data_v=1.5, hidden=None)
    assert made == ('<a title="&quot;&#x27;&lt;x&gt;" data-v="1.5">&lt;b&gt;&amp;<i></i></a>')


def test_element_replaces_characters_that_xml_forbids() -> None:
    assert element("b", "a\0b\x1b[31m") == "<b>a\ufffdb\ufffd[31m</b>"


@given(
    st.floats(1e-3, 1e4),
    st.floats(1.0001, 1e5),
    st.booleans(),
)
def test_scale_keeps_its_ticks_inside_and_in_order(low: float, ratio: float, log: bool) -> None:
    scale = Scale(low, low * ratio, log)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-6) <= tick <= low * ratio * (1 + 1e-6) for tick in ticks)
    assert scale(low) == pytest.approx(0.0, abs=1e-9)
    assert scale(low * ratio) == pytest.approx(1.0)


def test_scale_is_logarithmic_when_values_span_more_than_a_factor_of_five() -> None:
    assert not positive_scale([1.0, 4.9]).log
    scale = positive_scale([1.0, 100.0, None, math.nan, -3.0])
    assert scale.log
    assert scale(10.0) == pytest.approx(0.5)


def test_scale_has_room_when_there_is_one_value() -> None:
    scale = positive_scale([7.0])
    assert 0 < scale(7.0) < 1


def test_tick_text_has_no_floating_point_noise() -> None:
    assert [tick_text(v) for v in (0.1 + 0.2, 20.0, 2.5, 1000.0)] == ["0.3", "20", "2.5", "1,000"]


def test_marks_have_equal_areas() -> None:
    for shape in _SHAPES:
        if shape is not None:
            following = [*shape[1:], shape[0]]
            twice = sum(x * v - u * y for (x, y), (u, v) in zip(shape, following, strict=True))
            assert abs(twice) / 2 == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(20, 380), st.floats(20, 280)), min_size=1, max_size=40))
def test_labels_cover_neither_marks_nor_one_another(places: list[tuple[float, float]]) -> None:
    bounds = Box(0, 0, 400, 300)
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    labels: list[Box] = []
    for x, y in places:
        box = place_label((x, y, 6), 60, 12, [*marks, *labels], bounds, far=True)
        if box is not None:
            assert box.inside(bounds)
            assert not any(box.touches(other) for other in [*marks, *labels])
            labels.append(box)
    assert labels or len(places) > 1


def test_pareto_figure_draws_the_front_and_rings_what_is_shipped(make_row) -> None:
    rows = [
        make_row("fp32", latency_p50_ms=10.0),
        make_row("int8", latency_p50_ms=4.0, accuracy_drop=0.004),
        make_row("worse", latency_p50_ms=12.0, accuracy_drop=0.005),
        make_row("broken", status="error", reason="x", latency_p50_ms=None),
    ]
    drawn = pareto_figure(rows, rows[1], 0.01, MARKS)
    assert drawn is not None
    root = parsed(drawn)
    styles = [node.get("class") or "" for node in root.iter("circle")]
    assert sum("front-mark" in style for style in styles) == 2
    assert sum("behind" in style for style in styles) == 1
    assert styles.count("ship-ring") == 1
    assert "2 of them on the Pareto front" in "".join(root.find(".//desc").itertext())


def test_pareto_figure_area_is_proportional_to_size(make_row) -> None:
    rows = [
        make_row("fp32", latency_p50_ms=10.0, artifact_bytes=4000),
        make_row("int8", latency_p50_ms=4.0, artifact_bytes=1000),
    ]
    drawn = pareto_figure(rows, None, 0.01, MARKS)
    assert drawn is not None
    large, small = positions(drawn, "circle", "mark", "r")
    assert (large / small) ** 2 == pytest.approx(4.0, rel=0.01)


def test_pareto_figure_keeps_its_frame_when_one_build_is_far_out(make_row) -> None:
    rows = [
        make_row("fp32", latency_p50_ms=10.0),
        make_row("int8", latency_p50_ms=5.0, accuracy_drop=0.005),
        make_row("ruined", latency_p50_ms=3.0, accuracy_drop=0.6, accuracy_drop_high=0.7),
    ]
    drawn = pareto_figure(rows, rows[1], 0.01, MARKS)
    assert drawn is not None
    assert "ruined (60)" in "".join(parsed(drawn).itertext())
    assert drawn.count('class="beyond"') == 1


@pytest.mark.parametrize(
    ("columns", "axis"),
    [
        ({"top1_agreement": 0.97}, "predictions unlike the reference"),
        ({"relative_error": 0.01}, "relative error"),
        ({}, "artifact, MiB"),
    ],
)
def test_pareto_figure_falls_back_when_there_is_no_accuracy(make_row, columns, axis) -> None:
    drawn = pareto_figure([make_row(accuracy_drop=None, **columns)], None, 0.01, MARKS)
    assert drawn is not None
    assert axis in "".join(parsed(drawn).itertext())


def test_figures_are_left_out_when_nothing_was_measured(make_row) -> None:
    rows = [make_row(status="error", reason="x", latency_p50_ms=None, accuracy_drop=None)]
    assert pareto_figure(rows, None, 0.01, MARKS) is None
    assert latency_figure(rows, {}, None, MARKS) is None
    assert memory_figure(rows, None) is None
    assert accuracy_figure(rows, [], 0.01, MARKS) is None
    assert lineage_figure(rows) is None


def test_latency_figure_sorts_by_speed_and_shows_the_distribution(make_row) -> None:
    rows = [
        make_row("slow", latency_p50_ms=8.0, latency_p99_ms=9.0),
        make_row("quick", latency_p50_ms=4.0),
    ]
    samples = {rows[0]["cell_id"]: np.random.default_rng(0).normal(8.0, 0.2, 500)}
    drawn = latency_figure(rows, samples, rows[1], MARKS)
    assert drawn is not None
    assert drawn.index("quick") < drawn.index("slow")
    assert drawn.count('class="ridge') == 1
    assert drawn.count('class="tail') == 1
    assert drawn.count("strip chosen") == 1


def test_memory_figure_stacks_weights_use_and_waste_to_what_is_reserved(make_row) -> None:
    row = make_row(
        memory_weights_bytes=40 * 2**20,
        memory_in_use_bytes=60 * 2**20,
        memory_reserved_bytes=80 * 2**20,
        memory_waste_bytes=20 * 2**20,
        memory_minimum_bytes=42 * 2**20,
    )
    drawn = memory_figure([row], None)
    assert drawn is not None
    [weights] = positions(drawn, "rect", "m-weights", "width")
    [used] = positions(drawn, "rect", "m-used", "width")
    [waste] = positions(drawn, "rect", "m-waste", "width")
    [start] = positions(drawn, "rect", "m-waste", "x")
    [minimum] = positions(drawn, "line", "minimum", "x1")
    assert weights == pytest.approx(2 * used, abs=0.02)
    assert waste == pytest.approx(used, abs=0.02)
    assert start == pytest.approx(weights + used, abs=0.02)
    assert minimum == pytest.approx(weights * 42 / 40, abs=0.02)
    assert "25 % waste" in drawn


def test_memory_figure_uses_the_resident_set_when_the_allocator_is_silent(make_row) -> None:
    row = make_row(
        memory_weights_bytes=10 * 2**20,
        memory_resident_bytes=150 * 2**20,
        memory_baseline_bytes=100 * 2**20,
    )
    drawn = memory_figure([row], None)
    assert drawn is not None
    [weights] = positions(drawn, "rect", "m-weights", "width")
    [grown] = positions(drawn, "rect", "m-grown", "width")
    assert grown == pytest.approx(4 * weights, abs=0.05)


@pytest.mark.parametrize(
    ("value", "bound", "verdict"),
    [(0.002, 0.008, "within"), (0.005, 0.012, "not shown"), (0.02, 0.03, "over")],
)
def test_accuracy_figure_gives_the_verdict_of_the_bound(make_row, value, bound, verdict) -> None:
    row = make_row(accuracy_drop=value, accuracy_drop_bound=bound)
    drawn = accuracy_figure([row], [], 0.01, MARKS)
    assert drawn is not None
    assert re.findall(r'class="verdict \w+">. ([\w ]+)<', drawn) == [verdict]


def test_accuracy_figure_shows_a_build_once_when_workloads_share_it(make_row) -> None:
    rows = [make_row(workload="b1"), make_row(workload="b8"), make_row("int8")]
    drawn = accuracy_figure(rows, [], 0.01, MARKS)
    assert drawn is not None
    assert drawn.count('class="strip"') == 2


def test_lineage_figure_shows_each_step_with_its_size(make_row) -> None:
    lineage = (
        '[{"step": "export", "bytes": 2097152, "seconds": 3.0},'
        ' {"step": "int8", "bytes": 1048576, "parameters": {"scheme": "u8s8"}}]'
    )
    drawn = lineage_figure([make_row(lineage=lineage), make_row("odd", lineage="[1, 2")])
    assert drawn is not None
    assert re.findall(r'width="([\d.]+)%" height="6" class="m-weights"', drawn) == ["100.0", "50.0"]
    assert "2.00 MiB · 3.0 s" in drawn
    assert "scheme: u8s8" in drawn


def restless(make_row, times: dict[str, float]) -> list:
    """Rows of one block of which only the first has a median of its own."""
    return [
        make_row(
            recipe,
            cell_id=recipe,
            accuracy_drop=0.001 * place,
            compared=json.dumps(
                {
                    o: [t / times[o], 0.9 * t / times[o], 1.1 * t / times[o]]
                    for o in times
                    if o != recipe
                }
            ),
            **({} if place == 0 else {"latency_p50_ms": None, "latency_p50_low_ms": None}),
        )
        for place, (recipe, t) in enumerate(times.items())
    ]


def test_figures_leave_out_no_build_whose_own_median_is_not_known(make_row) -> None:
    rows = restless(make_row, {"fp32": 10.0, "int8": 4.0, "int4": 8.0})
    drawn = pareto_figure(rows, rows[1], 0.01, MARKS, (), rows[0])
    assert drawn is not None
    assert "time of one call, fp32 on onnxruntime-cpu = 1" in drawn
    assert "3 builds" in drawn
    assert "0.40x [0.36, 0.44]" in drawn
    samples = {row["cell_id"]: np.full(50, 5.0) for row in rows}
    strips = latency_figure(rows, samples, rows[1], MARKS)
    assert strips is not None
    places = [strips.index(f"<b>{name}</b>") for name in ("int8", "int4", "fp32")]
    assert places == sorted(places)


def test_speed_is_milliseconds_where_every_median_is_known(make_row) -> None:
    rows = [make_row("fp32"), make_row("int8", latency_p50_ms=4.0)]
    speed = speed_of(rows, rows[0])
    assert speed.pivot is None
    assert (speed.value(rows[1]), speed.axis) == (4.0, "median latency, ms")


def test_speed_is_relative_to_the_baseline_where_one_median_is_not(make_row) -> None:
    rows = restless(make_row, {"fp32": 10.0, "int8": 4.0})
    speed = speed_of(rows, rows[0])
    assert speed.pivot is rows[0]
    assert speed.value(rows[0]) == 1.0
    assert speed.value(rows[1]) == pytest.approx(0.4)
    assert speed.ends(rows[1]) == pytest.approx((0.36, 0.44))
    assert speed_of(rows).pivot is not None
