"""What may be judged of two runs of two days, and what is only shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import reports
from reports.columns import STATUSES
from reports.compare import Comparison, compare
from reports.comparison import telling
from reports.comparison.judgement import Judgement
from reports.errors import ReportError
from reports.store import CELLS, RunStore

MIB = 2**20
ENVIRONMENT = {
    "cpu": {"model": "Xeon 8488C", "usable_cores": 2, "governor": None},
    "python": "3.11.7",
    "versions": {"torch": "2.13.0"},
}
RIGHT = np.ones(400, np.int64)
AXES = {"model": "tiny", "runtime": "fake", "attention": "default", "device": "cpu"}


@dataclass
class Drop:
    """Of the mean, with an interval that is 0.02 wide, whatever the confidence."""

    drop: float
    examples: int
    lost: int
    gained: int
    confidence: float

    @property
    def low(self) -> float:
        return self.drop - 0.01

    @property
    def high(self) -> float:
        return self.drop + 0.01


def drop(metric: str, before: Any, after: Any, confidence: float) -> Drop:
    lost = before["correct"] - after["correct"]
    counts = int((lost > 0).sum()), int((lost < 0).sum())
    return Drop(float(lost.mean()), len(lost), *counts, confidence)


def row(recipe: str = "fp32", workload: str = "one", **columns: Any) -> dict[str, Any]:
    return {
        **AXES,
        "cell_id": f"{recipe}-{workload}",
        "suite": "demo",
        "recipe": recipe,
        "workload": workload,
        "status": "ok",
        "batch": 1,
        "kind": "forward",
        "latency_p50_ms": 4.0,
        "latency_p50_low_ms": 3.9,
        "latency_p50_high_ms": 4.1,
        "artifact_bytes": 10 * MIB,
        "artifact_key": f"key-{recipe}",
        "memory_peak_bytes": 100 * MIB,
        "memory_waste_bytes": 10 * MIB,
        "contract_threads": 1,
        "contract_allocator": "glibc",
        **columns,
    }


@pytest.fixture
def write(tmp_path: Path):
    """Writes a run into the folder ``name``; ``correct`` gives its builds' examples by recipe."""

    def make(name: str, rows: list[dict], correct: dict | None = None, **run: Any) -> Any:
        facts = {
            "suite": "demo",
            "suite_text": "the suite",
            "environment": ENVIRONMENT,
            "data": {"tiny": "print"},
            **run,
        }
        with RunStore.create(tmp_path / name, facts) as store:
            for order, each in enumerate(rows):
                scored = (correct or {}).get(each["recipe"])
                columns = {"order": order}
                if scored is not None:
                    columns |= {"task": "t", "metric": "accuracy", "metric_value": scored.mean()}
                    axes = {**AXES, "recipe": each["recipe"], "task": "t"}
                    store.record_examples(axes, {"correct": scored, "label": np.arange(400)})
                reason = {} if each["status"] == "ok" else {"reason": "for a reason"}
                store.record({**columns, **reason, **each})
            store.finish()
        return reports.load(tmp_path / name)

    return make


def found(comparison: Comparison, metric: str) -> list[Judgement]:
    return [judgement for judgement in comparison.judgements if judgement.metric == metric]


def verdicts(comparison: Comparison, metric: str) -> list[str]:
    return [judgement.verdict for judgement in found(comparison, metric)]


def with_wrong(count: int) -> np.ndarray:
    return np.where(np.arange(400) < count, 0, 1)


def test_run_compared_with_itself_is_the_same(write):
    run = write("a", [row(), row(workload="two")], {"fp32": with_wrong(7)})
    comparison = compare(run, run, drop)
    assert {judgement.verdict for judgement in comparison.judgements} == {"same"}
    metrics = [judgement.metric for judgement in comparison.judgements]
    # Accuracy and size belong to the build, memory to each of its two cells.
    assert metrics == ["accuracy", "size", *(["memory peak", "memory waste"] * 2)]
    assert (comparison.exit_code, list(comparison.notes)) == (0, [])
    assert not comparison.environment
    assert len(comparison.latencies) == 2


@pytest.mark.parametrize(
    ("column", "metric", "after", "verdict"),
    [
        ("artifact_bytes", "size", 10.2 * MIB, "same"),
        ("artifact_bytes", "size", 10.3 * MIB, "worse"),
        ("artifact_bytes", "size", 9.7 * MIB, "better"),
        ("memory_peak_bytes", "memory peak", 110 * MIB, "same"),
        ("memory_peak_bytes", "memory peak", 111 * MIB, "worse"),
        ("memory_peak_bytes", "memory peak", 89 * MIB, "better"),
        # Twelve per cent, and still less than what pages and libraries make of a resident set.
        ("memory_waste_bytes", "memory waste", 11 * MIB, "same"),
        ("memory_waste_bytes", "memory waste", 12 * MIB, "worse"),
        ("memory_waste_bytes", "memory waste", 0, "better"),
    ],
)
def test_bytes_are_judged_beyond_a_margin(write, column, metric, after, verdict):
    comparison = compare(write("a", [row()]), write("b", [row(**{column: int(after)})]), drop)
    assert verdicts(comparison, metric) == [verdict]
    assert comparison.verdict == verdict
    assert comparison.exit_code == (1 if verdict == "worse" else 0)


def test_growth_from_nothing_is_worse(write):
    runs = [write(n, [row(memory_waste_bytes=b)]) for n, b in (("a", 0), ("b", 2 * MIB))]
    (judgement,) = found(compare(*runs, drop), "memory waste")
    assert (judgement.verdict, judgement.seen) == ("worse", "from nothing")
    json.dumps(judgement.facts, allow_nan=False)


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(0, "better"), (8, "same"), (9, "same"), (17, "worse")]
)
def test_accuracy_is_judged_by_its_interval(write, wrong, verdict):
    before = write("a", [row(), row(workload="two")], {"fp32": with_wrong(8)})
    after = write("b", [row(), row(workload="two")], {"fp32": with_wrong(wrong)})
    comparison = compare(before, after, drop)
    (judgement,) = found(comparison, "accuracy")
    assert judgement.verdict == verdict
    assert judgement.where == "tiny/fp32/fake/default/*/cpu"
    assert judgement.before == "98.00 %"
    assert judgement.facts["accuracy_drop"] == pytest.approx((wrong - 8) / 400)
    assert judgement.facts["lost"] == max(0, wrong - 8)
    assert judgement.facts["gained"] == max(0, 8 - wrong)


def test_examples_are_paired_by_their_place(write, tmp_path):
    """Not by the order in which they were stored."""
    scored = np.array([0, 0, 1, 1, 1])
    for name, places in (("a", [0, 1, 2, 3, 4]), ("b", [4, 3, 2, 1, 0])):
        with RunStore.create(tmp_path / name, {"suite": "demo"}) as store:
            store.record(row(task="t", metric="accuracy", metric_value=0.6))
            answers = scored[places]
            store.record_examples(
                {**AXES, "recipe": "fp32", "task": "t"},
                {"correct": answers, "example": np.array(places)},
            )
            store.finish()
    runs = [reports.load(tmp_path / name) for name in "ab"]
    (judgement,) = found(compare(*runs, drop), "accuracy")
    assert (judgement.facts["lost"], judgement.facts["gained"]) == (0, 0)


def test_intervals_of_many_builds_hold_together(write):
    recipes = [f"r{number}" for number in range(5)]
    rows = [row(recipe) for recipe in recipes]
    correct = dict.fromkeys(recipes, RIGHT)
    comparison = compare(write("a", rows, correct), write("b", rows, correct), drop)
    confidences = [judgement.facts["confidence"] for judgement in found(comparison, "accuracy")]
    assert confidences == pytest.approx([0.99] * 5)


def test_other_data_makes_accuracies_incomparable(write):
    before = write("a", [row()], {"fp32": RIGHT})
    after = write("b", [row()], {"fp32": with_wrong(200)}, data={"tiny": "another"})
    comparison = compare(before, after, drop)
    (judgement,) = found(comparison, "accuracy")
    assert judgement.verdict == "not comparable"
    assert "fingerprints differ" in judgement.seen
    assert comparison.exit_code == 3


def test_data_that_changed_while_a_run_was_resumed_is_noticed(write, tmp_path):
    before = write("a", [row()], {"fp32": RIGHT})
    write("b", [row()], {"fp32": RIGHT})
    again = {"suite_text": "the suite", "data": {"tiny": "another"}, "environment": ENVIRONMENT}
    with RunStore.resume(tmp_path / "b", again) as store:
        store.finish()
    comparison = compare(before, reports.load(tmp_path / "b"), drop)
    assert verdicts(comparison, "accuracy") == ["not comparable"]
    assert any("measured in 2 sessions" in note for note in comparison.notes)
    assert not comparison.environment


def test_runs_without_fingerprints_are_held_to_their_labels(write, tmp_path):
    before = write("a", [row()], {"fp32": RIGHT}, data=None)
    same = write("b", [row()], {"fp32": RIGHT}, data=None)
    assert verdicts(compare(before, same, drop), "accuracy") == ["same"]
    with RunStore.create(tmp_path / "c", {"suite": "demo"}) as store:
        store.record(row(task="t", metric="accuracy", metric_value=1.0))
        axes = {**AXES, "recipe": "fp32", "task": "t"}
        store.record_examples(axes, {"correct": RIGHT, "label": np.arange(400)[::-1]})
        store.finish()
    (judgement,) = found(compare(before, reports.load(tmp_path / "c"), drop), "accuracy")
    assert judgement.verdict == "not comparable"
    assert "'label'" in judgement.seen


def test_build_without_examples_in_one_run_is_told(write):
    comparison = compare(write("a", [row()], {"fp32": RIGHT}), write("b", [row()]), drop)
    (judgement,) = found(comparison, "accuracy")
    assert (judgement.verdict, comparison.exit_code) == ("not comparable", 3)
    assert "second run has no examples" in judgement.seen


@pytest.mark.parametrize("before", STATUSES)
@pytest.mark.parametrize("after", STATUSES)
def test_every_change_of_status_has_its_verdict(write, before, after):
    ranks = {"ok": 0, "not-stationary": 0, "unsupported": 1}
    comparison = compare(write("a", [row(status=before)]), write("b", [row(status=after)]), drop)
    if before == after == "ok":
        assert verdicts(comparison, "status") == []
        return
    change = ranks.get(after, 2) - ranks.get(before, 2)
    expected = "worse" if change > 0 else "better" if change < 0 else "same"
    if {before, after} == {"ok", "not-stationary"}:
        expected = "not comparable"
    (judgement,) = found(comparison, "status")
    assert (judgement.verdict, judgement.before, judgement.after) == (expected, before, after)
    assert "for a reason" in judgement.seen
    assert not found(comparison, "memory peak")


def test_failed_build_is_worse_once_and_not_for_its_accuracy(write):
    failed = {"status": "error", "reason": "SIGSEGV", "artifact_bytes": None}
    comparison = compare(write("a", [row()], {"fp32": RIGHT}), write("b", [row(**failed)]), drop)
    assert [(j.metric, j.verdict, j.seen) for j in comparison.judgements] == [
        ("status", "worse", "SIGSEGV")
    ]


def test_missing_cell_is_never_silent(write):
    before = write("a", [row(), row(workload="two")])
    comparison = compare(before, write("b", [row()], only="one"), drop)
    (judgement,) = found(comparison, "cell")
    assert judgement.where == "tiny/fp32/fake/default/two/cpu"
    assert comparison.exit_code == 3
    assert any("run of part of its suite (one)" in note for note in comparison.notes)


def test_new_cell_is_noted_and_no_reason_to_fail(write):
    comparison = compare(write("a", [row()]), write("b", [row(), row("int8")]), drop)
    assert comparison.exit_code == 0
    (note,) = comparison.notes
    assert "tiny/int8/fake/default/one/cpu" in note


def test_renamed_cell_is_pointed_out(write):
    kept = row("other")
    before = write("a", [kept, row("int8", artifact_key="same")])
    after = write("b", [kept, row("int8-dynamic", artifact_key="same")])
    comparison = compare(before, after, drop)
    assert any(
        "tiny/int8/fake/default/one/cpu may be called tiny/int8-dynamic/fake" in note
        for note in comparison.notes
    )
    assert comparison.exit_code == 3
    # With another batch it is another cell, whatever made its artifact.
    changed = write("c", [kept, row("int8-dynamic", artifact_key="same", batch=8)])
    assert not any("may be called" in note for note in compare(before, changed, drop).notes)


def test_unlike_suites_and_tables_make_the_rest_doubtful(write, tmp_path):
    before = write("a", [row()])
    after = write("b", [row()], suite="another", suite_text="other text")
    path = tmp_path / "b" / CELLS
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"assay_schema_version": "0"}), path)
    comparison = compare(before, after, drop)
    assert [(j.metric, j.before, j.after) for j in comparison.judgements[:2]] == [
        ("suite", "demo", "another"),
        ("schema version", "1", "0"),
    ]
    assert verdicts(comparison, "suite") == ["not comparable"]
    assert comparison.exit_code == 3
    assert "the suite's text has changed between the two runs" in comparison.notes


def test_runs_without_a_common_cell_are_an_error(write):
    with pytest.raises(ReportError, match=r"no cell in common.*tiny/fp32.*tiny/int8"):
        compare(write("a", [row()]), write("b", [row("int8")]), drop)


def test_memory_under_another_contract_is_not_judged(write):
    before = write("a", [row(), row(workload="two")])
    changed = [
        row(contract_threads=2, memory_peak_bytes=200 * MIB),
        row(workload="two", batch=8, memory_peak_bytes=300 * MIB),
    ]
    comparison = compare(before, write("b", changed), drop)
    assert [(j.verdict, j.seen) for j in found(comparison, "memory peak")] == [
        ("not comparable", "threads (1, then 2)"),
        ("not comparable", "batch (1, then 8)"),
    ]


def test_latency_is_never_judged_however_it_changed(write):
    comparison = compare(
        write("a", [row()]), write("b", [row(latency_p50_ms=400.0, speedup=0.01)]), drop
    )
    assert comparison.exit_code == 0
    assert not [j for j in comparison.judgements if "latency" in j.metric]
    (pair,) = comparison.latencies
    assert (pair.before["latency_p50_ms"], pair.after["latency_p50_ms"]) == (4.0, 400.0)
    assert pair.unlike == ()


def test_what_differs_between_the_machines_is_listed(write):
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


def test_run_that_moved_to_another_machine_agrees_with_none(write, tmp_path):
    before = write("a", [row()])
    write("b", [row()])
    moved = {"suite_text": "the suite", "environment": {**ENVIRONMENT, "python": "3.12.1"}}
    with RunStore.resume(tmp_path / "b", moved) as store:
        store.finish()
    (difference,) = compare(before, reports.load(tmp_path / "b"), drop).environment
    assert str(difference) == "python (3.11.7, then 3.11.7, resumed with 3.12.1)"


def test_unknown_machine_agrees_with_no_other(write):
    runs = [write(name, [row()], environment=None) for name in "ab"]
    (difference,) = compare(*runs, drop).environment
    assert str(difference) == "environment (unknown, then unknown)"


# How it is told.


def shown(comparison: Comparison, width: int = 400) -> str:
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as capture:
        console.print(telling.terminal(comparison))
    return capture.get()


def test_terminal_ends_with_the_verdict_and_leaves_out_what_is_the_same(write):
    before = write("a", [row(), row("int8")], {"fp32": RIGHT, "int8": RIGHT})
    after = write(
        "b",
        [row(), row("int8", artifact_bytes=20 * MIB)],
        {"fp32": RIGHT, "int8": RIGHT},
        environment={"python": "3.12.1"},
    )
    text = shown(compare(before, after, drop))
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[-1].strip() == "WORSE: 1 worse, 7 same"
    worse = next(line for line in lines if line.startswith("worse"))
    assert worse.split() == [
        *("worse", "size", "tiny/int8/fake/default/*/cpu"),
        *("10.0", "MiB", "20.0", "MiB", "+100.0%"),
    ]
    assert "memory peak" not in text
    assert text.count("accuracy drop 0.00 points [-1.00, 1.00]") == 2
    assert "not comparable: the environments differ" in text
    assert "4.00 ms [3.90, 4.10]" in text


def test_markdown_and_json_say_everything(write, tmp_path):
    before, after = write("a", [row()]), write("b", [row(artifact_bytes=20 * MIB)])
    comparison = compare(before, after, drop)
    telling.write(comparison, tmp_path / "deep" / "told")
    told = json.loads((tmp_path / "deep" / "told" / "compare.json").read_text())
    assert (told["verdict"], told["exit_code"]) == ("worse", 1)
    assert told["judgements"][0]["facts"]["after_bytes"] == 20 * MIB
    assert told["latencies"][0]["comparable"] is True
    assert told["latencies"][0]["after"]["latency_p50_low_ms"] == 3.9
    text = (tmp_path / "deep" / "told" / "compare.md").read_text()
    assert text.startswith("## WORSE: ")
    assert "| same | memory peak | tiny/fp32/fake/default/one/cpu | 100 MiB | 100 MiB |" in text
    assert "alike, on another day" in text


def test_hostile_names_stay_text(write):
    name = "<script>|[red]x[/red]\n`"
    comparison = compare(write("a", [row(name)]), write("b", [row(name)]), drop)
    text = telling.markdown(comparison)
    assert "<script>" not in text
    assert all(line.count(" | ") == 5 for line in text.splitlines() if line.startswith("| same"))
    assert "[red]x[/red]" in shown(comparison)
