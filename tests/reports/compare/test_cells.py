"""What is judged of two cells, and what becomes of cells that have no counterpart."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from reports.columns import STATUSES
from reports.compare import Comparison, compare
from reports.comparison.judgement import Judgement
from reports.errors import ReportError
from reports.store import CELLS

MIB = 2**20
RIGHT = np.ones(400, np.int64)


def found(comparison: Comparison, metric: str) -> list[Judgement]:
    return [judgement for judgement in comparison.judgements if judgement.metric == metric]


def verdicts(comparison: Comparison, metric: str) -> list[str]:
    return [judgement.verdict for judgement in found(comparison, metric)]


def with_wrong(count: int) -> np.ndarray:
    return np.where(np.arange(400) < count, 0, 1)


def test_run_compared_with_itself_is_the_same(write, row, drop):
    run = write("a", [row(), row(workload="two")], {"fp32": with_wrong(7)})
    comparison = compare(run, run, drop)
    assert {judgement.verdict for judgement in comparison.judgements} == {"same"}
    metrics = [judgement.metric for judgement in comparison.judgements]
    assert metrics == ["accuracy", "size"]
    assert (comparison.exit_code, list(comparison.notes)) == (0, [])
    assert not comparison.environment
    assert len(comparison.latencies) == len(comparison.memory) == 2


@pytest.mark.parametrize(
    ("after", "verdict"), [(10.2, "same"), (10.3, "worse"), (9.7, "better"), (0, "better")]
)
def test_sizes_are_judged_beyond_a_margin(write, after, verdict, row, drop):
    changed = row(artifact_bytes=int(after * MIB))
    comparison = compare(write("a", [row()]), write("b", [changed]), drop)
    assert verdicts(comparison, "size") == [verdict]
    assert comparison.verdict == verdict
    assert comparison.exit_code == (1 if verdict == "worse" else 0)


def test_growth_from_nothing_is_worse(write, row, drop):
    runs = [write(n, [row(artifact_bytes=b)]) for n, b in (("a", 0), ("b", 2 * MIB))]
    (judgement,) = found(compare(*runs, drop), "size")
    assert (judgement.verdict, judgement.seen) == ("worse", "from nothing")
    json.dumps(judgement.facts, allow_nan=False)


def test_memory_is_shown_and_never_judged(write, row, drop):
    """Identical runs were seen to waste 23 and 60 MiB: two single readings prove no growth."""
    before = write("a", [row(memory_waste_bytes=23 * MIB, memory_peak_bytes=157 * MIB)])
    after = write("b", [row(memory_waste_bytes=60 * MIB, memory_peak_bytes=180 * MIB)])
    comparison = compare(before, after, drop)
    assert (comparison.verdict, comparison.exit_code) == ("same", 0)
    (pair,) = comparison.memory
    assert [each["memory_waste_bytes"] for each in (pair.before, pair.after)] == [
        *(23 * MIB, 60 * MIB)
    ]
    assert not pair.unlike


@pytest.mark.parametrize("before", STATUSES)
@pytest.mark.parametrize("after", STATUSES)
def test_every_change_of_status_has_its_verdict(write, before, after, row, drop):
    ranks = {"ok": 0, "not-stationary": 0, "unsupported": 1}
    comparison = compare(write("a", [row(status=before)]), write("b", [row(status=after)]), drop)
    if before == after == "ok":
        assert verdicts(comparison, "status") == []
        return
    change = ranks.get(after, 2) - ranks.get(before, 2)
    expected = "worse" if change > 0 else "better" if change < 0 else "same"
    if {before, after} == {"ok", "not-stationary"}:
        # Whether a latency settles is a matter of the day: told, and neither worse nor a doubt.
        assert verdicts(comparison, "status") == []
        assert comparison.exit_code == 0
        (note,) = comparison.notes
        assert f"was {before} and is {after}: for a reason" in note
        return
    (judgement,) = found(comparison, "status")
    assert (judgement.verdict, judgement.before, judgement.after) == (expected, before, after)
    assert "for a reason" in judgement.seen


def test_failed_build_is_worse_once_and_not_for_its_accuracy(write, row, drop):
    failed = {"status": "error", "reason": "SIGSEGV", "artifact_bytes": None}
    comparison = compare(write("a", [row()], {"fp32": RIGHT}), write("b", [row(**failed)]), drop)
    assert [(j.metric, j.verdict, j.seen) for j in comparison.judgements] == [
        ("status", "worse", "SIGSEGV")
    ]


def test_missing_cell_is_never_silent(write, row, drop):
    before = write("a", [row(), row(workload="two")])
    comparison = compare(before, write("b", [row()], only="one"), drop)
    (judgement,) = found(comparison, "cell")
    assert judgement.where == "tiny/fp32/fake/default/two/cpu"
    assert comparison.exit_code == 3
    assert any("run of part of its suite (one)" in note for note in comparison.notes)


def test_new_cell_is_noted_and_no_reason_to_fail(write, row, drop):
    comparison = compare(write("a", [row()]), write("b", [row(), row("int8")]), drop)
    assert comparison.exit_code == 0
    (note,) = comparison.notes
    assert "tiny/int8/fake/default/one/cpu" in note


def test_renamed_cell_is_pointed_out(write, row, drop):
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


def test_unlike_suites_and_tables_make_the_rest_doubtful(write, tmp_path, row, drop):
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


def test_runs_without_a_common_cell_are_an_error(write, row, drop):
    with pytest.raises(ReportError, match=r"no cell in common.*tiny/fp32.*tiny/int8"):
        compare(write("a", [row()]), write("b", [row("int8")]), drop)
