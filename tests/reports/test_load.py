"""How rows of load workloads are shown, and that they are kept apart from what is ranked."""

from __future__ import annotations

from typing import Any

import pytest

from reports import markdown, serving
from reports.columns import BY_NAME
from reports.columns.load import LOAD
from reports.decision import decide
from reports.figures.load import load_figure
from reports.figures.marks import Marks
from reports.html.load import under_load
from reports.schema import validate_row
from reports.wording import build_name


@pytest.fixture
def load_row(make_row):
    """(workload, rate, p50 in ms, ...) -> an open loop's row."""

    def make(workload: str, rate: float, p50: float | None, **columns: Any) -> dict[str, Any]:
        row = make_row(workload=workload, latency_p50_ms=None, load="open", slots=1)
        row |= {
            "requested_requests_per_s": rate,
            "offered_requests_per_s": rate,
            "achieved_over_offered": 1.0,
            "e2el_p50_ms": p50,
            "e2el_p50_low_ms": p50 and p50 * 0.9,
            "e2el_p50_high_ms": p50 and p50 * 1.1,
            "insufficient": "e2el_p99",
        }
        return {**row, **columns}

    return make


@pytest.fixture
def rows(make_row, load_row) -> list[dict[str, Any]]:
    saturated = load_row(
        "over",
        130,
        None,
        status="not-stationary",
        reason="saturated: 100.0 of 130.0 requests/s were served",
        achieved_over_offered=0.77,
        insufficient=None,
    )
    search = load_row(
        "search",
        61.2,
        12.0,
        load="capacity",
        requested_requests_per_s=None,
        capacity_requests_per_s=61.2,
        capacity_missed_requests_per_s=79.0,
        slo="90 % within 40 ms",
    )
    failed = load_row(
        "calm", 30, None, recipe="int8", status="error", reason="died", offered_requests_per_s=None
    )
    busy = load_row("busy", 60, 9.0, e2el_p99_ms=41.0, insufficient=None)
    return [make_row(), saturated, search, busy, failed, load_row("calm", 30, 6.0)]


def test_rows_stand_by_rate_with_the_saturated_among_them(rows) -> None:
    shown = serving.load_rows(rows)
    assert [row["workload"] for row in shown] == ["calm", "busy", "over", "search"]
    assert [row["workload"] for row in serving.plain_rows(rows)] == ["b1"]
    assert [serving.achieved(row) for row in shown][:3] == ["100 %", "100 %", "77 %, saturated"]
    assert [serving.time(row, "e2el_p99") for row in shown] == [
        *("insufficient", "41.0 ms", "–", "insufficient"),
    ]
    assert serving.time(shown[0], "e2el_p50") == "6.00 ms [5.40, 6.60]"


@pytest.mark.parametrize(
    ("met", "missed", "shown"),
    [
        (61.2, 79.0, "61.2 to 79/s"),
        (61.2, None, "at least 61.2/s"),
        (None, 79.0, "below 79/s"),
        (None, None, "–"),
    ],
)
def test_a_capacity_is_an_interval(load_row, met, missed, shown) -> None:
    columns = {"capacity_requests_per_s": met, "capacity_missed_requests_per_s": missed}
    row = load_row("search", 50, None, load="capacity", **columns)
    assert serving.capacity(row) == shown


def test_a_search_that_met_its_slo_nowhere_is_in_the_table_and_not_in_the_figure(load_row) -> None:
    columns = {"offered_requests_per_s": None, "requested_requests_per_s": None}
    columns |= {"achieved_over_offered": None, "insufficient": None}
    unmet = load_row(
        *("search", 0.0, None),
        load="capacity",
        status="not-stationary",
        reason="SLO met at no offered rate: 90 % within 1 ms was missed at 79/s",
        capacity_missed_requests_per_s=79.0,
        **columns,
    )
    undecided = {**unmet, "capacity_missed_requests_per_s": None}
    told = serving.load_rows([unmet, undecided, load_row("calm", 30, 6.0), load_row("b", 60, 9.0)])
    assert [row["workload"] for row in told] == ["calm", "b", "search"]
    assert (serving.achieved(unmet), serving.capacity(unmet)) == ("SLO not met", "below 79/s")
    drawn = load_figure(told, Marks(build_name(row) for row in told))
    assert drawn is not None
    assert "SLO" not in drawn


def test_requests_that_were_given_up_are_a_column_where_there_were_some(load_row) -> None:
    calm, lossy = load_row("calm", 50, 9.0), load_row("lossy", 80, 20.0, requests_given_up=7)
    for narrow in (False, True):
        assert "given up" not in dict(serving.headings([calm], narrow))
        told = dict(serving.headings([calm, lossy], narrow))
        assert told["given up"](lossy) == "7"


def test_clients_stand_where_a_rate_would(load_row) -> None:
    row = load_row("c", 0, 5.0, load="closed", concurrency=4, offered_requests_per_s=None)
    assert serving.offered(row) == "4 clients"


def test_no_decision_rests_on_a_load_workload(rows, load_row) -> None:
    assert [decision.workload for decision in decide(rows)] == ["b1"]
    only = [load_row("calm", 30, 6.0)]
    assert decide(only) == []
    told = markdown.render(only, {"suite": "s"}, [])
    assert "Nothing is recommended" in told
    assert "## Measured" not in told


def test_only_what_is_saturated_is_told_to_be(load_row) -> None:
    short = load_row("short", 90, None, status="not-stationary", reason="no request came")
    died = load_row("died", 95, None, status="error", reason="SIGSEGV", achieved_over_offered=None)
    assert [serving.achieved(row) for row in (short, died)] == ["100 %, not-stationary", "error"]
    told = [short, load_row("calm", 30, 6.0), load_row("busy", 60, 9.0)]
    drawn = load_figure(told, Marks(build_name(row) for row in told))
    assert drawn is not None
    assert "saturated" not in drawn


def test_figure_draws_every_rate_the_saturated_one_and_the_capacity(rows) -> None:
    told = serving.load_rows(rows)
    drawn = load_figure(told, Marks(build_name(row) for row in told))
    assert drawn is not None
    assert drawn.count("saturated</text>") == 1
    assert "61.2 to 79/s keep 90 % within 40 ms" in drawn
    assert "6.00 ms [5.40, 6.60]" in drawn
    assert "nan" not in drawn
    assert load_figure(told[:1], Marks(["x"])) is None


def test_section_escapes_names_and_says_nothing_without_load(rows, make_row) -> None:
    assert under_load([make_row()]) == []
    hostile = [{**row, "recipe": "<script>"} for row in rows]
    page = "".join(under_load(hostile))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_columns_have_units_in_their_names(load_row) -> None:
    ends = {"ms": "_ms", "requests/s": "_per_s"}
    for column in LOAD:
        assert column.name in BY_NAME
        if column.unit in ends:
            assert column.name.endswith(ends[column.unit])
    assert validate_row(load_row("calm", 30, 6.0))["load"] == "open"
