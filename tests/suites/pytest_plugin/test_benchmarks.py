"""A cell as a benchmark of pytest-benchmark: its samples, and what the tables make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 - an inner run forgets what it imported, and these cannot be imported twice
import pyarrow.pandas_compat  # noqa: F401
import pytest

pytest_plugins = ["pytester"]

ONE, TWO = (f"ramp/fp32/fake/default/{workload}/cpu" for workload in ("one", "two"))


def benchmarks(path: Path) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(path.read_text())["benchmarks"]}


def nanoseconds(seconds: float) -> int:
    """A float of seconds holds nanoseconds up to a hundred days."""
    return round(seconds * 1e9)


def test_benchmark_holds_the_samples_to_the_nanosecond(run, runs, pytester):
    runs.columns["one"] = {
        "latency_p50_ms": 3999.999999,
        "latency_p50_low_ms": 123.0,
        "latency_p50_high_ms": 4000.0,
        "insufficient": "p99",
        "speedup": 1.5,
        "accuracy": 0.9,
        "artifact_bytes": 1234,
    }
    result = run("--benchmark-json", "b.json")
    result.assert_outcomes(passed=2)
    found = benchmarks(pytester.path / "b.json")
    assert set(found) == {ONE, TWO}
    for label, workload in ((ONE, "one"), (TWO, "two")):
        stats, kept = found[label]["stats"], runs.samples[workload]
        assert [nanoseconds(second) for second in stats["data"]] == kept
        assert stats["data"] == [sample / 1e9 for sample in kept]
        assert nanoseconds(stats["min"]) == min(kept)
        assert nanoseconds(stats["max"]) == max(kept)
        assert stats["rounds"] == len(kept)
        assert stats["iterations"] == 1
    assert nanoseconds(found[ONE]["stats"]["median"]) == 3_999_999_999
    assert found[TWO]["stats"]["median"] == pytest.approx(2_000_002.5e-9, rel=1e-12)
    told = found[ONE]["extra_info"]
    assert told["status"] == "ok"
    assert told["latency_p50_ms"] == 3999.999999
    assert (told["latency_p50_low_ms"], told["latency_p50_high_ms"]) == (123.0, 4000.0)
    assert (told["latency_p99_ms"], told["insufficient"]) == (None, "p99")
    assert (told["speedup"], told["accuracy"], told["artifact_bytes"]) == (1.5, 0.9, 1234)
    assert found[ONE]["params"]["workload"] == "one"
    assert found[ONE]["group"] == "ramp one cpu"


def test_load_row_carries_its_requests_times_with_intervals_and_its_rates(run, runs, pytester):
    times = {
        f"e2el_{level}{end}_ms": value + offset
        for level, value in (("p50", 7.0), ("p90", 12.0), ("p99", 30.0))
        for end, offset in (("", 0.0), ("_low", -0.5), ("_high", 0.75))
    }
    rates = {
        "requested_requests_per_s": 60.0,
        "offered_requests_per_s": 61.25,
        "achieved_requests_per_s": 61.0,
        "achieved_over_offered": 61.0 / 61.25,
        "request_throughput_per_s": 58.5,
        "request_goodput_per_s": 57.0,
    }
    asked = {"load": "open", "slo": "99 % within 50 ms", "slo_met_share": 0.995}
    runs.columns["one"] = {**asked, **times, **rates, "requests_given_up": 3}
    run("--benchmark-json", "b.json").assert_outcomes(passed=2)
    found = benchmarks(pytester.path / "b.json")
    told, plain = found[ONE]["extra_info"], found[TWO]["extra_info"]
    for name, value in {**asked, **times, **rates, "requests_given_up": 3}.items():
        assert told[name] == value, name
        assert plain[name] is None, name
    # The calls alone, without their waiting.
    assert [nanoseconds(s) for s in found[ONE]["stats"]["data"]] == runs.samples["one"]


def test_all_cells_are_measured_in_one_run(run, runs, pytester):
    result = run("-v")
    result.stdout.fnmatch_lines([f"fakes.toml::{ONE} PASSED*", f"fakes.toml::{TWO} PASSED*"])
    assert runs.asked == [[ONE, TWO]]
    (options,) = runs.options
    assert (options["only"], options["fresh"], options["show"]) == (None, True, False)
    result.stdout.fnmatch_lines(["*assay-results/pytest/fakes/report.html"])


def test_tables_of_pytest_benchmark_compare_cells_of_one_workload(run):
    result = run("--benchmark-columns=median,rounds", "--benchmark-time-unit=ms")
    lines = result.stdout.str()
    assert "benchmark 'ramp one cpu': 1 tests" in lines
    result.stdout.fnmatch_lines([f"{TWO} *2.0000*4*"])


def test_later_run_compares_with_a_saved_one(run, pytester):
    run("--benchmark-autosave").assert_outcomes(passed=2)
    result = run("--benchmark-compare", "--benchmark-columns=median")
    assert result.stdout.str().count("(NOW)") == 2
    assert result.stdout.str().count("(0001_") == 2


def test_group_by_an_axis(run):
    result = run("--benchmark-group-by=param:workload", "--benchmark-columns=median")
    result.stdout.fnmatch_lines(["*benchmark 'workload=one': 1 tests*"])


def test_build_that_loses_too_much_is_recorded_all_the_same(run, runs, pytester):
    runs.columns["one"] = {
        "metric": "accuracy",
        "accuracy_drop": 0.03,
        "accuracy_drop_low": 0.011,
        "accuracy_drop_high": 0.049,
        "accuracy_drop_bound": 0.04,
    }
    run("--benchmark-json", "b.json").assert_outcomes(passed=1, failed=1)
    found = benchmarks(pytester.path / "b.json")[ONE]
    assert found["stats"]["rounds"] == len(runs.samples["one"])
    assert found["extra_info"]["accuracy_drop"] == 0.03
