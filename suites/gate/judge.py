"""Rules applied to what was measured: each gives a finding, whatever happened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reports.gate import Finding, Outcome
from suites import rows
from suites.cell import Cell
from suites.gate.contest import Contest
from suites.gate.kept import KeptBaseline
from suites.gate.rules import AccuracyRule, GateTable, GrowthRule, Rule
from suites.gate.verdict import PairedVerdict
from suites.scoring import Scored
from suites.suite import Suite
from suites.tasks.task import Task

MEMORY = {"memory_peak": "peak_bytes", "memory_waste": "waste_bytes"}


class Judge:
    """Collects the findings of one gate."""

    def __init__(self, table: GateTable) -> None:
        self._table = table
        self.findings: list[Finding] = []
        self._changed_data: dict[str, str] = {}
        self._ungated: dict[tuple[str, str], list[str]] = {}

    # Before anything is measured: what cannot be compared is never passed in silence.

    def matched(
        self, cells: Sequence[Cell], suite: Suite, kept: KeptBaseline, only: str | None
    ) -> tuple[Cell, ...]:
        """The cells that both the suite and the baseline have; the others are findings."""
        if kept.suite != suite.name:
            self._find("gate", "baseline", "inconclusive", f"it was kept from suite {kept.suite!r}")
        now = {cell.id for cell in suite.cells}
        for id, facts in kept.cells.items():
            if id not in now:
                self._find(
                    str(facts["label"]),
                    "cell",
                    "inconclusive",
                    "kept, but no cell of the suite on this machine: renamed, removed, or its "
                    "runtime is missing",
                )
        if only is not None:
            self.partial(len(cells), only, len(suite.cells))
        for cell in cells:
            if cell.id not in kept.cells:
                self._find(cell.label, "cell", "inconclusive", "the baseline has no such cell")
        return tuple(cell for cell in cells if cell.id in kept.cells)

    def partial(self, chosen: int, only: str, of: int | None = None) -> None:
        """Part of a suite was asked for: what it says holds for that part alone."""
        rest = "" if of is None else f" of {of}"
        self._find("gate", "cells", "inconclusive", f"--only {only!r} left {chosen}{rest} cells in")

    def slowed(self, slow_down: float) -> None:
        """What is slower on purpose may regress, and never passes."""
        self._find(
            "gate",
            "slow-down",
            "inconclusive",
            f"the candidates were slowed down by {slow_down:.1%} on purpose",
        )

    def data(self, model: str, now: str | None, kept: str | None) -> None:
        """A data set that changed makes two accuracies incomparable, and so does a missing one. It
        is told whatever the rules are: what is calibrated on other data is another candidate."""
        if now != kept:
            self._changed_data[model] = (
                "the task's data is not what it was when the baseline was kept"
                if now and kept
                else "the model had a task then or has one now, not both"
            )
            self._find(model, "data", "inconclusive", self._changed_data[model])

    def failed(self, cells: Sequence[Cell], error: Exception) -> None:
        """Whatever ended a candidate, or its baseline, before it could be compared."""
        told = rows.failure(error)
        for cell in cells:
            self._find(cell.label, "cell", "failed", f"{told['status']}: {told['reason']}")

    # What was measured.

    def accuracy(
        self, contest: Contest, task: Task, candidate: Scored | Exception, base: Scored | Exception
    ) -> None:
        """Of a contest that has a rule of accuracy."""
        rule = self._accuracy_rule(contest)
        assert rule is not None
        for found in (candidate, base):
            if isinstance(found, Exception):
                self._find(contest.key.label, "accuracy", "failed", rows.failure(found)["reason"])
                return
        assert isinstance(candidate, Scored)
        assert isinstance(base, Scored)
        if changed := self._changed_data.get(contest.key.model):
            self._find(contest.key.label, "accuracy", "inconclusive", changed)
            return
        drop = task.drop(base.examples, candidate.examples, rule.confidence)
        finest = task.resolution(base.examples, candidate.examples, rule.confidence)
        seen = (
            f"{task.metric} worse by {100 * drop.drop:.2f} points, with {rule.confidence:.0%} "
            f"confidence at most {100 * drop.upper:.2f} where {100 * rule.max_drop:.2f} is allowed "
            f"({drop.lost} examples worse, {drop.gained} better of {drop.examples})"
        )
        outcome: Outcome = "pass" if drop.upper < rule.max_drop else "regressed"
        if outcome == "regressed" and drop.low < rule.max_drop:
            outcome = "inconclusive"
            seen += f"; these examples resolve {100 * finest:.2f}"
        self._find(contest.key.label, "accuracy", outcome, seen, vars(drop))

    def without_task(self, contest: Contest) -> None:
        """The accuracy of a model that has no task. The rules that hold where none are written
        leave it out; a rule that was written, or a task that was there once, does not pass."""
        changed = self._changed_data.get(contest.key.model)
        if changed or "rules" in self._table.model_fields_set:
            reason = changed or "the model has no task, so that nothing can be said of its accuracy"
            self._find(contest.key.label, "accuracy", "inconclusive", reason)
        else:
            self._leave_out("accuracy", "the model has no task", contest.key.label)

    def gates_accuracy(self, contest: Contest) -> bool:
        """Whether a rule asks for it. Where none does, the gate will say so."""
        asked = self._accuracy_rule(contest) is not None
        if not asked:
            self._leave_out("accuracy", "no rule asks for it", contest.key.label)
        return asked

    def gates_latency(self, cells: Sequence[Cell]) -> None:
        """Note which of the cells no rule of latency is about."""
        for cell in cells:
            if self._table.of(cell.label, "latency") is None:
                self._leave_out("latency", "no rule asks for it", cell.label)

    def _leave_out(self, metric: str, reason: str, label: str) -> None:
        self._ungated.setdefault((metric, reason), []).append(label)

    @property
    def ungated(self) -> list[str]:
        """What this gate says nothing of, for whoever reads a pass."""
        return [
            f"{metric} of {', '.join(labels)}: {reason}"
            for (metric, reason), labels in self._ungated.items()
        ]

    def size(self, contest: Contest) -> None:
        rules = self._rules_of(contest, "size")
        if rules:
            self._growth(
                contest.key.label,
                "size",
                min((r for r in rules if isinstance(r, GrowthRule)), key=lambda r: r.max_growth),
                [(contest.candidate.artifact.bytes, contest.baseline.artifact.bytes)],
            )

    def _accuracy_rule(self, contest: Contest) -> AccuracyRule | None:
        rules = [r for r in self._rules_of(contest, "accuracy") if isinstance(r, AccuracyRule)]
        return min(rules, key=lambda rule: rule.max_drop, default=None)

    def _rules_of(self, contest: Contest, metric: str) -> list[Rule]:
        """Of all cells of a session, which have one artifact: the strictest of them counts."""
        found = (self._table.of(cell.label, metric) for cell in contest.cells.values())
        return [rule for rule in found if rule is not None]

    def measured(self, contest: Contest) -> None:
        """A contest's latency and memory, workload by workload. What was decided before a session
        failed stays decided: a regression that was seen is not taken back."""
        if contest.failure is not None:
            for workload, cell in contest.cells.items():
                verdict = contest.verdicts.get(workload)
                if verdict is not None and verdict.outcome != "inconclusive":
                    self._latency(contest, cell, verdict)
            self.failed(list(contest.cells.values()), contest.failure)
            return
        for workload, cell in contest.cells.items():
            if contest.unlike:
                told = f"the fairness contracts differ: {contest.unlike}"
                self._find(cell.label, "contract", "inconclusive", told)
            if (verdict := contest.verdicts.get(workload)) is not None:
                self._latency(contest, cell, verdict)
            for metric, quantity in MEMORY.items():
                rule = self._table.of(cell.label, metric)
                if isinstance(rule, GrowthRule):
                    read = contest.memory_of(workload, quantity)
                    self._growth(cell.label, metric, rule, read, contest.unlike)

    def _latency(self, contest: Contest, cell: Cell, verdict: PairedVerdict) -> None:
        outcome = verdict.outcome
        pairs = len(verdict.differences)
        samples = contest.samples.get(cell.workload, [])
        others = _mean([sample.others_cores for sample in samples])
        seen = f"{verdict.change:+.1%} in {pairs} pairs"
        if outcome == "regressed":
            seen += f": slower by more than the {verdict.ignore:.0%} that is ignored"
        elif outcome == "pass":
            seen += f": not slower by more than {verdict.margin:.0%}"
        else:
            spread = float(np.std(verdict.differences, ddof=1)) if pairs > 1 else math.nan
            noise = f"pairs differ by {spread:.1%}"
            if others is not None:
                noise += f", while other processes used {others:.2f} cores"
            seen += (
                f": neither known to be slower nor known to be within {verdict.margin:.0%} "
                f"({noise}); raise gate.max_pairs or quieten the machine"
            )
        if contest.unlike:
            outcome = "inconclusive"
            seen = f"not comparable: the fairness contracts differ ({contest.unlike}); {seen}"
        self._find(
            cell.label,
            "latency",
            outcome,
            seen,
            {
                "differences": list(verdict.differences),
                "candidate_first": [sample.candidate_first for sample in samples],
                "candidate_ms": _median_ms([s.candidate_ns for s in samples]),
                "baseline_ms": _median_ms([s.baseline_ns for s in samples]),
                "evidence_slower": verdict.slower,
                "evidence_slower_needed": verdict.slower_needed,
                "evidence_fast_enough": verdict.fast_enough,
                "evidence_fast_enough_needed": verdict.fast_enough_needed,
                "others_cores": others,
                "timed_s": sum(sample.seconds for sample in samples),
                "pair_own_s": contest.own_seconds,
            },
        )

    def _growth(
        self,
        label: str,
        metric: str,
        rule: GrowthRule,
        pairs: Sequence[tuple[int, int]] | None,
        unlike: str = "",
    ) -> None:
        """By the medians of both sides. Processes of one build may differ, so that a growth which
        some pairs do not show is no regression, and no pass."""
        if pairs is None:
            self._find(label, metric, "inconclusive", "this runtime does not tell")
            return
        mine, theirs = (float(np.median(side)) for side in zip(*pairs, strict=True))
        growth = _growth_of(mine, theirs)
        grown = sum(_growth_of(*pair) > rule.max_growth for pair in pairs)
        outcome: Outcome = "pass" if growth <= rule.max_growth else "regressed"
        seen = (
            f"{growth:+.1%} ({theirs / 2**20:,.2f} -> {mine / 2**20:,.2f} MiB) where "
            f"{rule.max_growth:+.1%} is allowed"
        )
        if unlike:
            outcome = "inconclusive"
            seen = f"not comparable: the fairness contracts differ ({unlike}); {seen}"
        elif outcome == "regressed" and grown < len(pairs):
            outcome = "inconclusive"
            seen += f"; {grown} of {len(pairs)} pairs grew by more"
        facts = {"candidate_bytes": mine, "baseline_bytes": theirs, "pairs": [*map(list, pairs)]}
        self._find(label, metric, outcome, seen, facts)

    def _find(
        self,
        cell: str,
        metric: str,
        outcome: Outcome,
        seen: str,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.findings.append(Finding(cell, metric, outcome, seen, dict(facts or {})))


def _growth_of(mine: float, theirs: float) -> float:
    """From nothing, any growth is infinite; nothing to nothing is none."""
    return mine / theirs - 1 if theirs else math.inf if mine else 0.0


def _median_ms(blocks: Sequence[np.ndarray]) -> float | None:
    return float(np.median(np.concatenate(blocks))) / 1e6 if blocks else None


def _mean(figures: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [figure for figure in figures if figure is not None]
    return float(np.mean(known)) if known else None
