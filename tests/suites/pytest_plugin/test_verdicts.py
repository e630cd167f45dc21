"""Which rows pass, fail and are skipped, with pytest-benchmark and without it."""

from __future__ import annotations

from typing import Any

import pandas  # noqa: F401 - an inner run forgets what it imported, and these cannot be imported twice
import pyarrow.pandas_compat  # noqa: F401
import pytest

pytest_plugins = ["pytester"]

ONE = "ramp/fp32/fake/default/one/cpu"
RECORDER = ("-p", "benchmark")
FAILURES = ("incorrect", "error", "timeout", "out-of-memory", "not-stationary")


@pytest.mark.parametrize("recorder", [RECORDER, ()])
def test_failed_cell_fails_with_its_reason_and_no_traceback(run, runs, pytester, recorder):
    suite = runs.suite.replace('"two"]', f'"two", {", ".join(map(repr, FAILURES))}]')
    suite += "".join(f"[workloads.{status}]\nbatch = 1\n" for status in FAILURES)
    pytester.path.joinpath("fakes.toml").write_text(suite)
    for status in FAILURES:
        runs.columns[status] = {"status": status, "reason": f"it was {status} at 30"}
    result = run("-W", "error", recorder=recorder)
    result.assert_outcomes(passed=2, failed=len(FAILURES))
    text = result.stdout.str()
    for status in FAILURES:
        label = f"ramp/fp32/fake/default/{status}/cpu"
        block = (
            f"*_ {label} _*",
            f"{status}: it was {status} at 30",
            f"  cell    {label}",
            "  report  *assay-results/pytest/fakes",
        )
        result.stdout.fnmatch_lines(block, consecutive=True)
        summary = f"FAILED fakes.toml::{label} - Failed: {status}: it was {status} at 30"
        assert summary in result.stdout.lines
    assert "Traceback" not in text
    assert "pytest_plugin.py" not in text
    assert "fixture was not used" not in text


@pytest.mark.parametrize("recorder", [RECORDER, ()])
def test_unsupported_cell_is_skipped_with_its_reason(run, runs, recorder):
    runs.columns["one"] = {"status": "unsupported", "reason": "no such device"}
    only = ("--benchmark-only",) if recorder else ()
    result = run("-rs", *only, recorder=recorder)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] fakes.toml: no such device"])


def test_cell_without_a_row_fails(run, runs):
    runs.columns["two"] = None
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["no row: the run ended before this cell"])


def drop(value: float, low: float, bound: float) -> dict[str, Any]:
    return {
        "metric": "accuracy",
        "accuracy_drop": value,
        "accuracy_drop_low": low,
        "accuracy_drop_high": 2 * value - low,
        "accuracy_drop_bound": bound,
    }


@pytest.mark.parametrize("recorder", [RECORDER, ()])
def test_drop_that_is_known_to_be_too_large_fails(run, runs, recorder):
    runs.columns["one"] = drop(0.03, 0.011, 0.04)
    result = run(recorder=recorder)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["accuracy drop 3.00 points [[]1.10, 4.90[]], where ship.max_drop allows a drop of 1.00*"]
    )
    assert "Traceback" not in result.stdout.str()


def test_drop_that_the_examples_cannot_rule_out_is_a_warning(run, runs):
    runs.columns["one"] = drop(0.005, -0.002, 0.011)
    result = run()
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        ["*accuracy drop 0.50 points*cannot rule out a drop of 1.10 points*allows*1.00 points"]
    )


@pytest.mark.parametrize("columns", [drop(0.005, 0.001, 0.0099), drop(0.0, 0.0, 0.0), {}])
def test_drop_within_what_is_allowed_passes(run, runs, columns):
    runs.columns["one"] = columns
    run("-W", "error").assert_outcomes(passed=2)


@pytest.mark.parametrize("recorder", [RECORDER, ()])
def test_search_that_met_its_slo_at_no_offered_rate_fails(run, runs, recorder):
    search = {"load": "capacity", "capacity_missed_requests_per_s": 95.0}
    reason = "SLO met at no offered rate: 99 % within 20 ms was missed at 95/s"
    runs.columns["one"] = {**search, "status": "not-stationary", "reason": reason}
    runs.columns["two"] = {**search, "capacity_requests_per_s": 80.0}
    result = run(recorder=recorder)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"not-stationary: {reason}", f"  cell    {ONE}"])


def test_max_drop_is_the_suites(run, runs, pytester):
    runs.columns["one"] = drop(0.03, 0.011, 0.04)
    pytester.path.joinpath("fakes.toml").write_text(runs.suite + "[ship]\nmax_drop = 0.05\n")
    run("-W", "error").assert_outcomes(passed=2)
