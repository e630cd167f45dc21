"""Accuracy is judged by paired examples, where both runs answered the same ones."""

from __future__ import annotations

import numpy as np
import pytest

import reports
from reports.compare import Comparison, compare
from reports.comparison.judgement import Judgement
from reports.store import RunStore

MIB = 2**20
RIGHT = np.ones(400, np.int64)
AXES = {"model": "tiny", "runtime": "fake", "attention": "default", "device": "cpu"}


def found(comparison: Comparison, metric: str) -> list[Judgement]:
    return [judgement for judgement in comparison.judgements if judgement.metric == metric]


def verdicts(comparison: Comparison, metric: str) -> list[str]:
    return [judgement.verdict for judgement in found(comparison, metric)]


def with_wrong(count: int) -> np.ndarray:
    return np.where(np.arange(400) < count, 0, 1)


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(0, "better"), (8, "same"), (9, "same"), (17, "worse")]
)
def test_accuracy_is_judged_by_its_interval(write, wrong, verdict, row, drop):
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


def test_examples_are_paired_by_their_place(write, tmp_path, row, drop):
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


def test_intervals_of_many_builds_hold_together(write, row, drop):
    recipes = [f"r{number}" for number in range(5)]
    rows = [row(recipe) for recipe in recipes]
    correct = dict.fromkeys(recipes, RIGHT)
    comparison = compare(write("a", rows, correct), write("b", rows, correct), drop)
    confidences = [judgement.facts["confidence"] for judgement in found(comparison, "accuracy")]
    assert confidences == pytest.approx([0.99] * 5)


def test_other_data_makes_accuracies_incomparable(write, row, drop):
    before = write("a", [row()], {"fp32": RIGHT})
    after = write("b", [row()], {"fp32": with_wrong(200)}, data={"tiny": "another"})
    comparison = compare(before, after, drop)
    (judgement,) = found(comparison, "accuracy")
    assert judgement.verdict == "not comparable"
    assert "fingerprints differ" in judgement.seen
    assert comparison.exit_code == 3


def test_data_that_changed_while_a_run_was_resumed_is_noticed(write, tmp_path, row, drop):
    before = write("a", [row()], {"fp32": RIGHT})
    write("b", [row()], {"fp32": RIGHT})
    again = {
        "suite_text": "the suite",
        "data": {"tiny": "another"},
        "environment": write.environment,
    }
    with RunStore.resume(tmp_path / "b", again) as store:
        store.finish()
    comparison = compare(before, reports.load(tmp_path / "b"), drop)
    assert verdicts(comparison, "accuracy") == ["not comparable"]
    assert any("measured in 2 sessions" in note for note in comparison.notes)
    assert not comparison.environment


def test_runs_without_fingerprints_are_held_to_their_labels(write, tmp_path, row, drop):
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


def test_build_without_examples_in_one_run_is_told(write, row, drop):
    comparison = compare(write("a", [row()], {"fp32": RIGHT}), write("b", [row()]), drop)
    (judgement,) = found(comparison, "accuracy")
    assert (judgement.verdict, comparison.exit_code) == ("not comparable", 3)
    assert "second run has no examples" in judgement.seen
