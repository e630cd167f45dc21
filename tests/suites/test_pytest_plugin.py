"""``pytest --assay``: every cell a test and a benchmark, whatever became of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401 - an inner run forgets what it imported, and these cannot be imported twice
import pyarrow.pandas_compat  # noqa: F401
import pytest

import reports
from compile.errors import InputError
from reports.store import RunStore
from suites import pytest_plugin
from suites.cell import Cell
from suites.run import Expanded
from suites.suite import load_suite

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
USAGE_ERROR = 4
ONE, TWO = (f"ramp/fp32/fake/default/{workload}/cpu" for workload in ("one", "two"))
SAMPLES = {
    # Apart by one nanosecond, and large enough that a sum of them has fewer digits.
    "one": [3_999_999_999, 4_000_000_001, 123_456_789, 4_000_000_000, 1],
    "two": [2_000_003, 2_000_001, 2_000_002, 2_000_004],
}
SUITE = """
[matrix]
model = ["ramp"]
runtime = ["fake"]
workload = ["one", "two"]
[models.ramp]
source = "ramp.onnx"
[workloads.one]
batch = 1
[workloads.two]
batch = 2
"""
RECORDER = ("-p", "benchmark")


class Runs:
    """Stands for the runner: keeps what it was asked for, and records rows of known content."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.options: list[dict[str, Any]] = []
        self.columns: dict[str, dict[str, Any]] = {}
        """By workload: what its row has beside what every row has."""
        self.error: Exception | None = None

    def run_cells(
        self, expanded: Expanded, cells: Sequence[Cell], out: Path, **options: Any
    ) -> list[str]:
        self.asked.append([cell.label for cell in cells])
        self.options.append(options)
        if self.error is not None:
            raise self.error
        if options["fresh"]:
            shutil.rmtree(out, ignore_errors=True)
        with RunStore.create(out, {"suite": expanded.suite.name}) as store:
            for order, cell in enumerate(cells):
                columns = self.columns.get(cell.workload, {})
                if columns is None:
                    continue
                row = {**vars(cell), "cell_id": cell.id, "suite": "s", "status": "ok"}
                warmup, kept = [7_000_000_000], SAMPLES.get(cell.workload, [1])
                phases = ["warmup"] * len(warmup) + ["sample"] * len(kept)
                store.record(
                    {**row, "order": order, **columns},
                    {"latency_ns": np.array([*warmup, *kept]), "phase": np.array(phases)},
                )
            store.finish()
        return []


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> Runs:
    fake = Runs()
    monkeypatch.setattr(
        pytest_plugin,
        "expand_here",
        lambda reference, _: Expanded(load_suite(reference, ["fake"], cuda=False), {}, {}),
    )
    monkeypatch.setattr(pytest_plugin, "run_cells", fake.run_cells)
    pytester.path.joinpath("fakes.toml").write_text(SUITE)
    # Other plugins of this environment are not looked at: each would be loaded for each inner run.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("COLUMNS", "200")
    return fake


@pytest.fixture
def run(pytester: pytest.Pytester, runs: Runs) -> Callable[..., pytest.RunResult]:
    def call(*arguments: str, recorder: Sequence[str] = RECORDER) -> pytest.RunResult:
        return pytester.runpytest_inprocess(
            "-p", "assay", *recorder, "--assay", "fakes.toml", *arguments
        )

    return call


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
        stats, kept = found[label]["stats"], SAMPLES[workload]
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


FAILURES = ("incorrect", "error", "timeout", "out-of-memory", "not-stationary")


@pytest.mark.parametrize("recorder", [RECORDER, ()])
def test_failed_cell_fails_with_its_reason_and_no_traceback(run, runs, pytester, recorder):
    suite = SUITE.replace('"two"]', f'"two", {", ".join(map(repr, FAILURES))}]')
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


def test_build_that_loses_too_much_is_recorded_all_the_same(run, runs, pytester):
    runs.columns["one"] = drop(0.03, 0.011, 0.04)
    run("--benchmark-json", "b.json").assert_outcomes(passed=1, failed=1)
    found = benchmarks(pytester.path / "b.json")[ONE]
    assert found["stats"]["rounds"] == len(SAMPLES["one"])
    assert found["extra_info"]["accuracy_drop"] == 0.03


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


def test_max_drop_is_the_suites(run, runs, pytester):
    runs.columns["one"] = drop(0.03, 0.011, 0.04)
    pytester.path.joinpath("fakes.toml").write_text(SUITE + "[ship]\nmax_drop = 0.05\n")
    run("-W", "error").assert_outcomes(passed=2)


def test_without_pytest_benchmark_the_same_is_run_without_its_tables(run, runs):
    result = run(recorder=())
    result.assert_outcomes(passed=2)
    assert runs.asked == [[ONE, TWO]]
    assert "Rounds" not in result.stdout.str()


def test_collect_only_measures_nothing(run, runs, pytester):
    result = run("--collect-only", "-q")
    result.stdout.fnmatch_lines([f"fakes.toml::{ONE}", f"fakes.toml::{TWO}", "2 tests collected*"])
    assert runs.asked == []
    assert not pytester.path.joinpath("assay-results").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("-k", "ramp and two"), "1 cells chosen in pytest"),
        (("--deselect", f"fakes.toml::{ONE}"), "1 cells chosen in pytest"),
        ((f"fakes.toml::{TWO}",), "1 cells chosen in pytest"),
        (("--assay-only", "two"), "two"),
    ],
)
def test_only_the_chosen_cells_are_measured(run, runs, arguments, part):
    assert run(*arguments).parseoutcomes()["passed"] == 1
    assert runs.asked == [[TWO]]
    # A run of a part says so, for whoever compares it with another.
    assert runs.options[0]["only"] == part


def test_cell_that_a_conftest_skips_is_not_measured(run, runs, pytester):
    pytester.makeconftest("""
        import pytest

        def pytest_collection_modifyitems(items):
            items[0].add_marker(pytest.mark.skip(reason="not today"))
    """)
    run().assert_outcomes(passed=1, skipped=1)
    assert runs.asked == [[TWO]]


def test_benchmark_skip_measures_nothing(run, runs):
    run("--benchmark-skip").assert_outcomes(skipped=2)
    assert runs.asked == []


def test_benchmark_disable_judges_without_recording(run, runs, pytester):
    runs.columns["one"] = {"status": "error", "reason": "crashed"}
    run("--benchmark-disable").assert_outcomes(passed=1, failed=1)


def test_benchmark_only_leaves_the_cells(run, runs, pytester):
    file = pytester.makepyfile("def test_plain(): pass")
    result = run("--benchmark-only", file.name)
    result.assert_outcomes(passed=2, skipped=1)


def test_stop_at_the_first_failure(run, runs):
    runs.columns["one"] = {"status": "error", "reason": "crashed"}
    result = run("-x")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


def test_suite_is_alone_unless_paths_are_given(run, runs, pytester):
    file = pytester.makepyfile("def test_plain(): pass")
    run().assert_outcomes(passed=2)
    run(file.name).assert_outcomes(passed=3)
    run(file.name, "fakes.toml", f"fakes.toml::{ONE}").assert_outcomes(passed=3)


def test_fixtures_of_a_project_work(run, pytester):
    pytester.makeconftest("""
        import pytest

        @pytest.fixture(autouse=True, scope="module")
        def module(request):
            assert request.module.__name__ == "fakes"

        @pytest.fixture(autouse=True, scope="session")
        def session():
            yield
    """)
    run().assert_outcomes(passed=2)


def one_line_of_usage(result: pytest.RunResult, *parts: str) -> None:
    assert result.ret == USAGE_ERROR
    lines = [line for line in result.stderr.str().splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("ERROR: ")
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in result.stdout.str()


def test_mistake_in_the_suite_is_a_usage_error(run, pytester):
    pytester.path.joinpath("fakes.toml").write_text(SUITE + "colour = 1\n")
    one_line_of_usage(run(), "assay: ", "fakes.toml", "colour")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--assay-only", "nothing"), "--only 'nothing' matches none of the 2 cells"),
        ((f"fakes.toml::{ONE}x",), f"fakes.toml has no cell '{ONE}x'"),
    ],
)
def test_choice_that_is_no_cell_is_a_usage_error(run, arguments, message):
    one_line_of_usage(run(*arguments), message)


def test_mistake_that_the_run_finds_is_a_usage_error(run, runs):
    runs.error = InputError("fakes.toml: models.ramp: cut.onnx is not an ONNX file")
    one_line_of_usage(run(), "assay: fakes.toml: models.ramp: cut.onnx is not an ONNX file")


@pytest.mark.parametrize("option", [("--numprocesses", "2"), ("--dist", "load")])
def test_parallel_tests_are_refused(run, runs, pytester, option):
    pytester.makepyfile(
        parallel="""
        def pytest_addoption(parser):
            parser.addoption("--dist", default="no")
            parser.addoption("--numprocesses", type=int)
        """
    )
    pytester.syspathinsert()
    one_line_of_usage(run("-p", "parallel", *option), "--assay measures", "-p no:xdist")
    assert runs.asked == []
    run("-p", "parallel", "--numprocesses", "0").assert_outcomes(passed=2)


def test_names_stay_on_one_line(run, runs, pytester):
    name = "evil\\n\\u001b[31m"
    pytester.path.joinpath("fakes.toml").write_text(
        SUITE.replace('"ramp"', f'"{name}"').replace("[models.ramp]", f'[models."{name}"]')
    )
    result = run("--collect-only", "-q")
    assert "fakes.toml::evil\\n\\x1b[31m/fp32/fake/default/one/cpu" in result.stdout.lines


# The door, from outside.


def outside(pytester: pytest.Pytester, *arguments: str, path: str = str(ROOT)) -> Any:
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "assay", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=pytester.path,
    )


def test_pytest_without_assay_imports_none_of_the_rooms(pytester):
    pytester.makepyfile("""
        import sys

        def test_modules():
            rooms = {"compile", "quantize", "runtimes", "suites", "reports"}
            assert not (rooms | {"numpy", "pandas", "rich", "torch"}) & set(sys.modules)
            assert "assay" in sys.modules
    """)
    done = outside(pytester)
    assert done.returncode == 0, done.stdout


def test_options_without_a_suite_are_a_usage_error(pytester):
    done = outside(pytester, "--assay-out", "x")
    assert done.returncode == USAGE_ERROR
    assert done.stderr.strip() == "ERROR: --assay-out belongs to --assay SUITE"


def test_intruder_is_named_before_it_is_imported(pytester):
    package = pytester.mkpydir("suites")
    package.joinpath("__init__.py").write_text("raise SystemExit('an intruder ran')")
    path = os.pathsep.join([str(pytester.path), str(ROOT)])
    done = outside(pytester, "--assay", "quickstart", path=path)
    assert done.returncode == USAGE_ERROR
    assert f"the package 'suites' is found at {package}" in done.stderr
    assert "an intruder ran" not in done.stdout + done.stderr


def test_plugin_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"assay": "assay"}
    assert {r.partition(">")[0] for r in project["optional-dependencies"]["pytest"]} == {
        "pytest",
        "pytest-benchmark",
    }


def test_sessions_of_known_latency_become_benchmarks(suite_file, tmp_path, pytester):
    """From end to end, through real sessions of the fake runtime."""
    suite = suite_file("latency_ms = 4.0")
    text = suite.read_text().replace('["one", "two"]', '["two"]')
    suite.write_text(text.replace("max_seconds = 1.0", "max_seconds = 0.3"))
    out, told = tmp_path / "out", tmp_path / "b.json"
    done = outside(
        pytester,
        *("--assay", str(suite), "--assay-out", str(out), "--benchmark-json", str(told)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert str(out / "report.html") in done.stdout
    results = reports.load(out)
    (row,) = results.rows
    (found,) = benchmarks(told).values()
    samples = results.samples_of(row["cell_id"])
    kept = samples.loc[samples["phase"] == "sample", "latency_ns"].to_numpy()
    assert [nanoseconds(second) for second in found["stats"]["data"]] == kept.tolist()
    assert nanoseconds(2 * found["stats"]["median"]) == round(2 * np.median(kept))
    assert found["stats"]["min"] >= 0.004
    assert found["extra_info"]["samples"] == row["samples"] == len(kept)
