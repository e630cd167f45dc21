"""Each kind of finding, from contests that are made up and whose outcome is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compile.errors import Incorrect
from reports.gate import Finding, GateReport
from runtimes.session import MemoryBreakdown
from suites.blocks import SessionKey
from suites.cell import Cell
from suites.gate.contest import Contest
from suites.gate.judge import Judge
from suites.gate.rules import GateTable
from suites.gate.verdict import PairedVerdict
from suites.scoring import Scored

LATENCY = {"metric": "latency"}
SAME, SLOWER = [0.0] * 12, [0.1] * 12


def table(*rules: dict[str, Any]) -> GateTable:
    return GateTable.model_validate({"rules": list(rules)} if rules else {})


def cell(workload: str) -> Cell:
    return Cell("m", "int8", "fake", "default", workload, "cpu")


def contest(differences: dict[str, list[float]], bytes_: tuple[int, int] = (100, 100)) -> Contest:
    """One session's cells: candidate and baseline of so many bytes, pairs that differ so."""
    candidate, baseline = (SimpleNamespace(artifact=SimpleNamespace(bytes=size)) for size in bytes_)
    verdicts = {}
    for workload, series in differences.items():
        verdicts[workload] = PairedVerdict(0.01, 0.05, 0.01, 0.05, 1, 60)
        verdicts[workload].differences += series
    cells = {workload: cell(workload) for workload in differences}
    key = SessionKey.of(next(iter(cells.values())))
    return Contest(key, cells, candidate, baseline, verdicts, pairs=12)  # type: ignore[arg-type]


def judged(judge: Judge, told: Contest) -> dict[tuple[str, str], Finding]:
    judge.size(told)
    judge.measured(told)
    return {(f.cell, f.metric): f for f in judge.findings}


def found_of(judge: Judge, told: Contest, metric: str) -> list[Finding]:
    return [finding for (_, name), finding in judged(judge, told).items() if name == metric]


def test_equal_builds_pass_and_a_slower_one_regresses() -> None:
    found = judged(Judge(table(LATENCY)), contest({"one": SAME, "two": SLOWER}))
    assert found[cell("one").label, "latency"].outcome == "pass"
    assert found[cell("two").label, "latency"].outcome == "regressed"


def test_unlike_contracts_are_never_a_verdict() -> None:
    for series in (SAME, SLOWER):
        told = contest({"one": series})
        told.unlike = "threads 2 -> 1"
        latency = judged(Judge(table(LATENCY)), told)[cell("one").label, "latency"]
        assert latency.outcome == "inconclusive"
        assert "threads 2 -> 1" in latency.seen


def test_unlike_contracts_do_not_pass_where_nothing_but_bytes_has_a_rule() -> None:
    told = contest({"one": SAME, "two": SAME})
    told.unlike, told.verdicts = "precision 'f32' -> 'tf32'", {}
    judge = Judge(table({"metric": "size", "max_growth": 0.02}))
    found = judged(judge, told)
    assert found[told.key.label, "size"].outcome == "pass"
    contracts = [f for f in judge.findings if f.metric == "contract"]
    assert [f.cell for f in contracts] == [cell("one").label, cell("two").label]
    assert {f.outcome for f in contracts} == {"inconclusive"}
    assert "'f32' -> 'tf32'" in contracts[0].seen
    assert GateReport("s", "b", judge.findings, {}).exit_code == 3


def test_changed_data_do_not_pass_where_nothing_but_bytes_has_a_rule() -> None:
    judge = Judge(table({"metric": "size", "max_growth": 0.02}))
    judge.data("m", "now", "then")
    judge.data("other", "same", "same")
    judged(judge, contest({"one": SAME}))
    (told,) = [f for f in judge.findings if f.outcome != "pass"]
    assert (told.cell, told.metric, told.outcome) == ("m", "data", "inconclusive")
    assert GateReport("s", "b", judge.findings, {}).exit_code == 3


def test_a_regression_that_was_seen_is_not_taken_back_by_a_later_crash() -> None:
    told = contest({"one": SLOWER, "two": [0.0]})
    told.failure = Incorrect("nan")
    judge = Judge(table(LATENCY))
    judge.measured(told)
    assert [(f.cell, f.metric, f.outcome) for f in judge.findings] == [
        (cell("one").label, "latency", "regressed"),
        (cell("one").label, "cell", "failed"),
        (cell("two").label, "cell", "failed"),
    ]
    assert GateReport("s", "b", judge.findings, {}).exit_code == 1


@pytest.mark.parametrize(("size", "outcome"), [(101, "pass"), (103, "regressed")])
def test_size_is_held_to_its_threshold(size: int, outcome: str) -> None:
    rule = {"metric": "size", "max_growth": 0.02}
    found = found_of(Judge(table(rule)), contest({"one": SAME}, (size, 100)), "size")
    assert [f.outcome for f in found] == [outcome]


def test_a_rule_of_a_later_workload_is_its_sessions_and_the_strictest_counts() -> None:
    rules = [
        {"metric": "size", "max_growth": 0.0, "cells": "*/two/*"},
        {"metric": "size", "max_growth": 9.0},
    ]
    for some in (rules, rules[:1]):
        told = contest({"one": SAME, "two": SAME}, (101, 100))
        assert [f.outcome for f in found_of(Judge(table(*some)), told, "size")] == ["regressed"]


def test_memory_that_a_runtime_does_not_tell_is_inconclusive() -> None:
    rule = {"metric": "memory_peak", "max_growth": 0.1}
    (found,) = found_of(Judge(table(rule)), contest({"one": SAME}), "memory_peak")
    assert found.outcome == "inconclusive"


@pytest.mark.parametrize(
    ("pairs", "outcome"),
    [
        ([(109, 100), (100, 100), (150, 100)], "pass"),
        ([(112, 100), (111, 100), (115, 100)], "regressed"),
        # Both sides differ between processes: it may have grown, or that may be chance.
        ([(112, 100), (112, 110), (112, 100)], "inconclusive"),
        ([(0, 0), (0, 0), (0, 0)], "pass"),
        ([(1, 0), (1, 0), (1, 0)], "regressed"),
    ],
)
def test_memory_regresses_when_every_pair_shows_it(pairs, outcome: str) -> None:
    told = contest({"one": SAME})
    told.memory["one"] = [
        (MemoryBreakdown(peak_bytes=mine), MemoryBreakdown(peak_bytes=theirs))
        for mine, theirs in pairs
    ]
    rule = {"metric": "memory_peak", "max_growth": 0.1}
    (found,) = found_of(Judge(table(rule)), told, "memory_peak")
    assert found.outcome == outcome
    assert found.facts["pairs"] == [list(pair) for pair in pairs]


def test_memory_of_unlike_contracts_is_never_a_verdict() -> None:
    told = contest({"one": SAME})
    told.unlike = "threads 2 -> 1"
    told.memory["one"] = [(MemoryBreakdown(peak_bytes=150), MemoryBreakdown(peak_bytes=100))] * 3
    rule = {"metric": "memory_peak", "max_growth": 0.1}
    (found,) = found_of(Judge(table(rule)), told, "memory_peak")
    assert found.outcome == "inconclusive"
    assert "threads 2 -> 1" in found.seen


@dataclass
class Task:
    """A task whose drop is known."""

    upper: float
    low: float
    metric: str = "accuracy"
    told: list[Any] = field(default_factory=list)

    def drop(self, reference: Any, candidate: Any, confidence: float) -> SimpleNamespace:
        self.told.append((reference, candidate, confidence))
        return SimpleNamespace(
            drop=(self.low + self.upper) / 2,
            low=self.low,
            upper=self.upper,
            lost=3,
            gained=1,
            examples=100,
        )

    def resolution(self, reference: Any, candidate: Any, confidence: float) -> float:
        return 0.02


ACCURACY = {"metric": "accuracy", "max_drop": 0.01}


def scored(answers: str) -> Scored:
    made = object.__new__(Scored)
    object.__setattr__(made, "examples", answers)
    return made


@pytest.mark.parametrize(
    ("low", "upper", "outcome"),
    [(-0.01, 0.009, "pass"), (-0.01, 0.02, "inconclusive"), (0.011, 0.02, "regressed")],
)
def test_accuracy_passes_when_its_bound_is_below_what_may_be_lost(
    low: float, upper: float, outcome: str
) -> None:
    judge, task = Judge(table(ACCURACY)), Task(upper, low)
    judge.accuracy(contest({"one": SAME}), task, scored("new"), scored("old"))  # type: ignore[arg-type]
    assert [f.outcome for f in judge.findings] == [outcome]
    assert task.told == [("old", "new", 0.95)]


def test_accuracy_on_data_that_changed_is_inconclusive() -> None:
    judge = Judge(table(ACCURACY))
    judge.data("m", "now", "then")
    judge.accuracy(contest({"one": SAME}), Task(0.0, 0.0), scored("new"), scored("old"))  # type: ignore[arg-type]
    assert [(f.metric, f.outcome) for f in judge.findings] == [
        ("data", "inconclusive"),
        ("accuracy", "inconclusive"),
    ]
    assert "is not what it was" in judge.findings[1].seen


def test_accuracy_of_a_side_that_could_not_be_scored_failed() -> None:
    judge = Judge(table(ACCURACY))
    judge.accuracy(contest({"one": SAME}), Task(0.0, 0.0), Incorrect("nan"), scored("old"))  # type: ignore[arg-type]
    assert [f.outcome for f in judge.findings] == ["failed"]


def test_accuracy_of_a_model_without_a_task_is_not_passed_over() -> None:
    written, kept = Judge(table(ACCURACY)), Judge(table())
    written.without_task(contest({"one": SAME}))
    kept.data("m", None, "then")
    kept.without_task(contest({"one": SAME}))
    (no_task,), (data, accuracy) = written.findings, kept.findings
    assert {f.outcome for f in (no_task, data, accuracy)} == {"inconclusive"}
    assert "no task" in no_task.seen
    assert "had a task then" in accuracy.seen


def test_the_rules_that_nobody_wrote_ask_no_accuracy_of_a_model_without_a_task_and_say_so() -> None:
    judge = Judge(table())
    judge.data("m", None, None)
    for _ in range(2):
        told = contest({"one": SAME})
        assert judge.gates_accuracy(told)
        judge.without_task(told)
    assert judge.findings == []
    label = contest({"one": SAME}).key.label
    assert judge.ungated == [f"accuracy of {label}, {label}: the model has no task"]


def test_accuracy_that_no_rule_asks_for_is_told() -> None:
    told = contest({"one": SAME, "two": SAME})
    judge = Judge(table({**LATENCY, "cells": "*/one/*"}))
    assert not judge.gates_accuracy(told)
    judge.gates_latency(list(told.cells.values()))
    assert judge.ungated == [
        f"accuracy of {told.key.label}: no rule asks for it",
        f"latency of {cell('two').label}: no rule asks for it",
    ]


def test_what_others_did_is_told_where_nothing_could_be_decided() -> None:
    told = contest({"one": [0.3, -0.3, 0.02]})
    blocks = np.ones(12, np.int64)
    told.samples["one"] = [
        SimpleNamespace(  # type: ignore[list-item]
            others_cores=cores,
            candidate_first=True,
            candidate_ns=blocks,
            baseline_ns=blocks,
            seconds=1.0,
        )
        for cores in (0.5, None, 1.0)
    ]
    (found,) = judged(Judge(table(LATENCY)), told).values()
    assert found.facts["others_cores"] == 0.75
    assert "other processes used 0.75 cores" in found.seen


def test_an_earlier_gates_files_are_gone_before_the_next_begins(tmp_path: Any) -> None:
    GateReport("s", "b", [], {}).write(tmp_path)
    (tmp_path / "mine.txt").write_text("")
    assert len(list(tmp_path.iterdir())) == 4
    GateReport.clear(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]
    GateReport.clear(tmp_path / "nowhere")
