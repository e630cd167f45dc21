"""What the comparison with other benchmarks reads, counts and prints."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.peers import __main__ as peers
from scripts.peers import contenders, environment, readings
from scripts.peers import table as tables

HOUSE = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures"
Turn, NoLatency = tables.Turn, readings.NoLatency


def recorded(name):
    return json.loads((FIXTURES / name).read_text())


def rows(*turns, cells=("1 x 128",), contenders=("mine",)):
    """Each row of the table as a dictionary."""
    lines = tables.table(turns, cells, contenders).split("\n")
    titles, _, *body = ([cell.strip() for cell in line[1:-1].split(" | ")] for line in lines)
    return [dict(zip(titles, row, strict=True)) for row in body]


def turn(reported, wall=10.0, bare=10.0, settled=8.0, **more):
    return Turn("mine", "1 x 128", wall, reported, bare, settled, **more)


def test_optimum_benchmark_reports_the_p50_of_forward_in_milliseconds():
    report = recorded("optimum-benchmark.json")
    assert readings.optimum_benchmark(report) == pytest.approx(16.515829498530366)


def test_a_report_of_optimum_benchmark_without_forward_gives_no_latency():
    report = recorded("optimum-benchmark.json")
    report["forward"]["latency"] = None
    with pytest.raises(NoLatency, match=r"no forward\.latency"):
        readings.optimum_benchmark(report)
    with pytest.raises(NoLatency, match=r"no forward\.latency"):
        readings.optimum_benchmark({})


def test_a_report_in_another_unit_is_not_taken_for_seconds():
    report = recorded("optimum-benchmark.json")
    report["forward"]["latency"]["unit"] = "ms"
    with pytest.raises(NoLatency, match="'ms'"):
        readings.optimum_benchmark(report)


def test_pytest_benchmark_reports_its_median_in_milliseconds():
    report = recorded("pytest-benchmark.json")
    assert readings.pytest_benchmark(report) == pytest.approx(0.0044769985834136605)


@pytest.mark.parametrize("benchmarks", [[], [{}, {}], None])
def test_pytest_benchmark_without_exactly_one_benchmark_gives_no_latency(benchmarks):
    with pytest.raises(NoLatency, match="not one"):
        readings.pytest_benchmark({"benchmarks": benchmarks})


def test_assay_reports_its_p50_or_why_there_is_none():
    row = {"status": "ok", "reason": None, "latency_p50_ms": 10.25}
    assert readings.assay(row) == 10.25
    with pytest.raises(NoLatency, match="insufficient"):
        readings.assay({**row, "latency_p50_ms": None})
    with pytest.raises(NoLatency, match="incorrect: off by 3"):
        readings.assay({**row, "status": "incorrect", "reason": "off by 3"})


def test_ratios_are_of_each_turn_to_its_own_loops():
    # A machine that slows to a third in one turn: the ratio does not move, the latency does.
    (row,) = rows(turn(11.0), turn(33.0, bare=30.0, settled=24.0), turn(11.0, wall=20.0))
    assert row["reported, ms"] == "11.00"
    assert row["over the bare loop"] == "1.100 (1.100, 1.100)"
    assert row["over the settled loop"] == "1.375 (1.375, 1.375)"
    assert row["wall, s"] == "10.0 (10.0, 15.0)"


def test_quartiles_are_those_of_the_turns():
    (row,) = rows(*(turn(value) for value in (10.0, 11.0, 12.0, 13.0, 50.0)))
    assert row["over the bare loop"] == "1.200 (1.100, 1.300)"


def test_spread_is_the_median_absolute_deviation_over_the_median():
    assert tables.spread([8.0, 10.0, 11.0, 10.0, 40.0]) == pytest.approx(1.0 / 10.0)
    assert tables.spread([7.0, 7.0]) == 0.0
    assert tables.spread([7.0]) is None
    (row,) = rows(turn(8.0), turn(10.0), turn(11.0), turn(10.0), turn(40.0))
    assert row["spread"] == "10.0%"


def test_a_cell_that_was_never_measured_keeps_its_row_with_the_reason():
    missing = replace(turn(None, wall=3.0), bare_ms=None, settled_ms=None, reason="no |\n such way")
    (row,) = rows(missing, missing)
    assert row["reported, ms"] == r"not measured: no \| such way"
    assert row["wall, s"] == "3.0 (3.0, 3.0)"
    assert row["over the bare loop"] == row["spread"] == "–"


def test_a_cell_that_was_measured_in_part_says_in_how_many_runs():
    (row,) = rows(turn(10.0), turn(None, reason="too restless"), turn(12.0))
    assert row["reported, ms"] == "11.00 in 2 of 3 runs; else: too restless"
    assert row["over the bare loop"] == "1.100 (1.050, 1.150)"


def test_every_contender_has_a_row_for_every_cell():
    found = rows(turn(10.0), cells=("1 x 128", "8 x 128"), contenders=("mine", "yours"))
    assert [(row["cell"], row["benchmark"]) for row in found] == [
        *(("1 x 128", "mine"), ("1 x 128", "yours")),
        *(("8 x 128", "mine"), ("8 x 128", "yours")),
    ]
    assert found[0]["reported, ms"] == "10.00"
    assert {row["reported, ms"] for row in found[1:]} == {
        "not measured: the run ended before its turn"
    }


def test_latency_without_loops_around_it_has_no_ratio():
    (row,) = rows(replace(turn(10.0), bare_ms=None, settled_ms=None))
    assert (row["reported, ms"], row["over the bare loop"]) == ("10.00", "–")


class Loops:
    """A yardstick whose loops live for so many readings."""

    def __init__(self, readings):
        self.readings = readings

    def medians(self):
        self.readings -= 1
        if self.readings < 0:
            raise RuntimeError("the bare loop ended with exit code 1")
        return [10.0, 8.0]


def failing(error):
    def measure(cell, folder):
        raise error

    return contenders.Contender("mine", "python", measure)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NoLatency("too\nrestless"), "too restless"),
        (FileNotFoundError(2, "no such file", "report.json"), "FileNotFoundError: .*report.json"),
        (json.JSONDecodeError("bad", "{", 1), "JSONDecodeError: bad"),
        (KeyError("forward"), "KeyError: 'forward'"),
        (RuntimeError("the bare loop ended"), "RuntimeError: the bare loop ended"),
    ],
)
def test_a_contender_that_fails_has_its_turn_and_stops_nobody(error, reason):
    taken = peers.take(failing(error), "one", Loops(2))
    assert taken.reported_ms is None
    assert re.search(reason, taken.reason)
    assert "\n" not in taken.reason
    assert (taken.bare_ms, taken.settled_ms) == (10.0, 8.0)
    with pytest.raises(KeyboardInterrupt):
        peers.take(failing(KeyboardInterrupt()), "one", None)


@pytest.mark.parametrize("readings", [0, 1])
def test_a_bare_loop_that_died_costs_the_ratio_and_not_the_latency(readings):
    contender = contenders.Contender("mine", "python", lambda cell, folder: 12.0)
    taken = peers.take(contender, "one", Loops(readings))
    assert (taken.reported_ms, taken.bare_ms, taken.settled_ms) == (12.0, None, None)


@pytest.fixture
def site(tmp_path):
    return contenders.Site(tmp_path / "bert", 1, tmp_path / "home", Path(sys.executable))


def ending(monkeypatch, code, words):
    monkeypatch.setattr(
        contenders.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, code, "", words),
    )


@pytest.mark.parametrize("code", [0, 4])
def test_assay_that_left_no_row_gives_its_last_words(monkeypatch, tmp_path, site, code):
    ending(monkeypatch, code, "first\nthe store is damaged\n")
    taken = contenders.contenders(site)[0]
    with pytest.raises(NoLatency, match="no row: the store is damaged"):
        taken.measure("one", tmp_path)


def test_code_4_of_another_benchmark_is_a_failure(monkeypatch, tmp_path, site):
    ending(monkeypatch, 4, "ERROR: usage\n")
    pytest_benchmark = contenders.contenders(site)[2]
    with pytest.raises(NoLatency, match="exit code 4: ERROR: usage"):
        pytest_benchmark.measure("one", tmp_path)


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """Records what pip is asked for instead of asking it; its exit code can be set."""
    asked = []

    def run(command, *, env, check):
        assert check
        asked.append((command, env["PIP_CONSTRAINT"]))
        if run.fails:
            raise subprocess.CalledProcessError(1, command)

    run.fails = False
    pins = tmp_path / "pins.txt"
    pins.write_text("torch==1\n")
    monkeypatch.setattr(environment, "CONSTRAINTS", pins)
    monkeypatch.setattr(environment.subprocess, "run", run)

    def create(folder, with_pip):
        folder.mkdir()
        (folder / "pyvenv.cfg").touch()

    monkeypatch.setattr(environment.venv, "create", create)
    return run, asked, pins


def test_environment_is_made_once_and_again_when_the_pins_change(pip, tmp_path):
    _, asked, pins = pip
    folder = tmp_path / "env"
    environment.make(folder)
    environment.make(folder)
    assert len(asked) == 1
    command, constraint = asked[0]
    assert command[0] == str(folder / "bin" / "python")
    assert constraint == str(pins)
    pins.write_text("torch==2\n")
    environment.make(folder)
    assert len(asked) == 2


def test_environment_that_pip_did_not_finish_is_made_again(pip, tmp_path):
    run, asked, _ = pip
    run.fails = True
    with pytest.raises(subprocess.CalledProcessError):
        environment.make(tmp_path / "env")
    run.fails = False
    environment.make(tmp_path / "env")
    assert len(asked) == 2


def test_only_a_virtual_environment_is_removed(pip, tmp_path):
    precious = tmp_path / "env" / "thesis.txt"
    precious.parent.mkdir()
    precious.touch()
    with pytest.raises(FileExistsError, match=r"no pyvenv\.cfg"):
        environment.make(precious.parent)
    assert precious.is_file()
    assert not pip[1]


def test_both_environments_run_one_torch():
    def pinned(file):
        lines = (HOUSE / file).read_text().split("\n")
        return next(line for line in lines if line.startswith("torch=="))

    assert pinned("constraints-peers.txt") == pinned("constraints.txt")
