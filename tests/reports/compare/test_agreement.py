"""What only means something where machine and contract agree."""

from __future__ import annotations

import numpy as np
import pytest

import reports
from reports.compare import Comparison, compare
from reports.comparison import telling
from reports.comparison.judgement import Judgement
from reports.store import RunStore

MIB = 2**20
RIGHT = np.ones(400, np.int64)


def found(comparison: Comparison, metric: str) -> list[Judgement]:
    return [judgement for judgement in comparison.judgements if judgement.metric == metric]


def test_memory_under_another_contract_is_not_comparable(write, row, drop):
    before = write("a", [row(), row(workload="two")])
    changed = [
        row(contract_threads=2, memory_peak_bytes=200 * MIB),
        row(workload="two", batch=8, memory_peak_bytes=300 * MIB),
    ]
    comparison = compare(before, write("b", changed), drop)
    assert [telling.listed(pair.unlike) for pair in comparison.memory] == [
        "threads (1, then 2)",
        "batch (1, then 8)",
    ]
    text = telling.markdown(comparison)
    assert "100 MiB | 200 MiB | 10.0 MiB | 10.0 MiB | not comparable: threads (1, then 2) |" in text


@pytest.mark.parametrize(
    ("then", "now", "unlike"),
    [(None, 5, ["processes (1, then 5)"]), (1, None, []), (3, 5, [])],
)
def test_an_interval_of_calls_is_unlike_one_of_processes(write, row, drop, then, now, unlike):
    runs = write("a", [row(processes=then)]), write("b", [row(processes=now)])
    (pair,) = compare(*runs, drop).latencies
    assert [str(difference) for difference in pair.unlike] == unlike


def test_latency_is_never_judged_however_it_changed(write, row, drop):
    comparison = compare(
        write("a", [row()]), write("b", [row(latency_p50_ms=400.0, speedup=0.01)]), drop
    )
    assert comparison.exit_code == 0
    assert not [j for j in comparison.judgements if "latency" in j.metric]
    (pair,) = comparison.latencies
    assert (pair.before["latency_p50_ms"], pair.after["latency_p50_ms"]) == (4.0, 400.0)
    assert pair.unlike == ()


def test_what_differs_between_the_machines_is_listed(write, row, drop):
    other = {
        "cpu": {"model": "EPYC 9654", "usable_cores": 2, "governor": "performance"},
        "python": "3.11.7",
        "versions": {"torch": "2.14.0"},
    }
    after = write("b", [row(contract_threads=2)], environment=other)
    comparison = compare(write("a", [row()]), after, drop)
    assert [str(difference) for difference in comparison.environment] == [
        "cpu.model (Xeon 8488C, then EPYC 9654)",
        "versions.torch (2.13.0, then 2.14.0)",
        "cpu.governor (unknown, then performance)",
    ]
    (pair,) = comparison.latencies
    assert [str(difference) for difference in pair.unlike] == ["threads (1, then 2)"]
    told = telling.to_json(comparison)["latencies"][0]
    assert told["comparable"] is False


def test_run_that_moved_to_another_machine_agrees_with_none(write, tmp_path, row, drop):
    before = write("a", [row()])
    write("b", [row()])
    moved = {"suite_text": "the suite", "environment": {**write.environment, "python": "3.12.1"}}
    with RunStore.resume(tmp_path / "b", moved) as store:
        store.finish()
    (difference,) = compare(before, reports.load(tmp_path / "b"), drop).environment
    assert str(difference) == "python (3.11.7, then 3.11.7, resumed with 3.12.1)"


def test_unknown_machine_agrees_with_no_other(write, row, drop):
    runs = [write(name, [row()], environment=None) for name in "ab"]
    (difference,) = compare(*runs, drop).environment
    assert str(difference) == "environment (unknown, then unknown)"


OPEN = {
    "load": "open",
    "burstiness": 1.0,
    "slots": 1,
    "slo": "99 % within 50 ms",
    "requested_requests_per_s": 60.0,
    "latency_p50_ms": None,
}


@pytest.mark.parametrize(
    ("before", "after", "unlike"),
    [
        ({}, OPEN, ["load", "burstiness", "slots", "slo", "requested_requests_per_s"]),
        (OPEN, {**OPEN, "requested_requests_per_s": 90.0}, ["requested_requests_per_s"]),
        (OPEN, {**OPEN, "slots": 2}, ["slots"]),
        (OPEN, {**OPEN, "burstiness": 0.25}, ["burstiness"]),
        (OPEN, {**OPEN, "slo": "99 % within 80 ms"}, ["slo"]),
        (OPEN, {**OPEN, "rate_share": 0.5}, ["rate_share"]),
        ({}, {"batch": 8}, ["batch"]),
    ],
)
@pytest.mark.parametrize("status", ["ok", "timeout"])
def test_another_workload_of_the_same_name_is_never_judged(
    write, before, after, unlike, status, row, drop
):
    old, new = write("a", [row("fp32", "busy", **before)]), row("fp32", "busy", **after)
    comparison = compare(old, write("b", [{**new, "status": status}]), drop)
    assert [(j.metric, j.verdict) for j in comparison.judgements] == [
        *(("workload", "not comparable"), ("size", "same"))
    ]
    assert comparison.exit_code == 3
    for pair in (*comparison.latencies, *comparison.memory):
        assert [difference.name for difference in pair.unlike] == unlike
    assert comparison.memory
    assert "alike" not in telling.markdown(comparison)


def test_a_rate_that_was_settled_from_a_share_may_differ_between_runs(write, row, drop):
    shared = {**OPEN, "rate_share": 0.5}
    before = write("a", [row(**shared)])
    after = write("b", [row(**{**shared, "requested_requests_per_s": 71.0})])
    assert compare(before, after, drop).verdict == "same"
