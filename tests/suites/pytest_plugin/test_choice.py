"""Which cells are measured, and what is a mistake in asking for them."""

from __future__ import annotations

import pandas  # noqa: F401 - an inner run forgets what it imported, and these cannot be imported twice
import pyarrow.pandas_compat  # noqa: F401
import pytest

from compile.errors import InputError

pytest_plugins = ["pytester"]

USAGE_ERROR = 4
ONE, TWO = (f"ramp/fp32/fake/default/{workload}/cpu" for workload in ("one", "two"))


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


def test_run_knows_the_pytest_command_that_makes_it_again(run, runs):
    run("--assay-only", "two")
    (options,) = runs.options
    program, *arguments = options["command"]
    assert program == "pytest"
    asked = "-p assay -p benchmark --assay fakes.toml --assay-only two"
    assert asked in " ".join(arguments)


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


def test_mistake_in_the_suite_is_a_usage_error(run, runs, pytester):
    pytester.path.joinpath("fakes.toml").write_text(runs.suite + "colour = 1\n")
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
        runs.suite.replace('"ramp"', f'"{name}"').replace("[models.ramp]", f'[models."{name}"]')
    )
    result = run("--collect-only", "-q")
    assert "fakes.toml::evil\\n\\x1b[31m/fp32/fake/default/one/cpu" in result.stdout.lines
