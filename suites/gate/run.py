"""``assay gate``: is the candidate fit to replace the baseline?

The suite's builds are made, and every one is held to the baseline's build of the same cell: a
kept artifact of an earlier release, or another recipe of the same model. What is compared is
measured now, in pairs, on this machine; nothing that was measured on another day is judged.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from compile.errors import InputError
from reports.gate import GateReport
from suites import rows
from suites.bench import Bench
from suites.blocks import by_session
from suites.cell import Cell
from suites.gate.contest import Contest, Side, until_decided
from suites.gate.judge import MEMORY, Judge
from suites.gate.kept import KeptBaseline
from suites.gate.pair import PairPlan
from suites.gate.rules import LatencyRule
from suites.gate.site import open_site
from suites.gate.verdict import PairedVerdict
from suites.scoring import Scored
from suites.suite import Suite


@dataclass(frozen=True)
class Recipes:
    """A gate between two recipes of the same models."""

    candidate: str
    baseline: str


def gate(
    reference: str,
    against: Path | Recipes,
    *,
    only: str | None = None,
    slow_down: float = 0.0,
    seed: int | None = None,
    plan: PairPlan | None = None,
    console: Console | None = None,
    builder_log: Path | None = None,
) -> GateReport:
    """Hold the suite's builds to a kept baseline (a folder), or one recipe's to another's.

    ``slow_down`` makes every call of a candidate last that share longer, to see whether the gate
    notices; such a gate cannot pass. ``seed`` decides the coins; by default they are fresh.
    ``builder_log`` is where what the builder prints is kept, by default beside the artifacts'
    store. Raises InputError for what the user can mend; whatever ends one cell is a finding.
    """
    if not 0 <= slow_down <= 1:
        raise InputError(f"a slow-down must lie between 0 and 1, not {slow_down:g}")
    start = time.perf_counter()
    kept = KeptBaseline.load(against) if isinstance(against, Path) else None
    with open_site(reference, only, console, builder_log) as site:
        table = site.suite.file.gate
        cells = site.cells
        if isinstance(against, Recipes):
            cells = tuple(cell for cell in cells if cell.recipe == against.candidate)
            if not cells:
                have = ", ".join(dict.fromkeys(cell.recipe for cell in site.cells))
                raise InputError(
                    f"{site.suite.path}: no cell has the candidate recipe {against.candidate!r}; "
                    f"there are {have}"
                )
        # Against all cells: a rule of those that were left out today is no mistake.
        table.check([cell.label for cell in site.suite.cells], str(site.suite.path))
        judge = Judge(table)
        if kept is not None:
            cells = judge.matched(cells, site.suite, kept, only)
        elif only is not None:
            judge.partial(len(cells), only)
        if slow_down:
            judge.slowed(slow_down)
        latency_rules = sum(table.of(cell.label, "latency") is not None for cell in cells)
        judge.gates_latency(cells)
        pairing = random.Random(seed)
        for name, subject in site.subjects.items():
            mine = [cell for cell in cells if cell.model == name]
            if not mine:
                continue
            if kept is not None:
                now = subject.task.fingerprint if subject.task else None
                judge.data(name, now, kept.data.get(name))
            with site.bench(subject, mine) as bench:
                try:
                    contests = _contests(bench, mine, against, kept, judge, latency_rules)
                except rows.FAILURES as error:
                    # Without the fp32 model or its outputs nothing can be said of any of its cells.
                    judge.failed(mine, error)
                    continue
                bench.builds.close()
                for contest in contests:
                    contest.candidate = replace(contest.candidate, slow_down=slow_down)
                until_decided(contests, pairing, plan or PairPlan(), site.display)
                for contest in contests:
                    judge.measured(contest)
        facts = {
            "alpha": table.alpha,
            "beta": table.beta,
            "comparisons": latency_rules,
            "seconds": time.perf_counter() - start,
            "environment": site.environment,
        }
        named = against.baseline if isinstance(against, Recipes) else f"the baseline in {against}"
        return GateReport(site.suite.name, str(named), judge.findings, facts, judge.ungated)


def _contests(
    bench: Bench,
    cells: Sequence[Cell],
    against: Path | Recipes,
    kept: KeptBaseline | None,
    judge: Judge,
    comparisons: int,
) -> list[Contest]:
    """Every session's contest, its accuracy and size judged. What fails is a finding."""
    base = bench.builds.base()
    bench.check_workloads(base)
    grouped = by_session(cells)
    recipes = {key.recipe: bench.recipe(key.recipe) for key in grouped}
    if isinstance(against, Recipes):
        recipes[against.baseline] = bench.recipe(against.baseline)
    failed: dict[str, Exception] = {}
    truths = bench.truths(base, recipes, failed.__setitem__)
    contests = []
    for key, mine in grouped.items():
        try:
            for recipe in (key.recipe, *([] if kept else [against.baseline])):  # type: ignore[union-attr]
                if recipe in failed:
                    raise failed[recipe]
            candidate = bench.builds.get(recipes[key.recipe], bench.builds.kind(key.runtime))
            their_key = key
            if kept is not None:
                baseline = kept.artifact(kept.cells[mine[0].id]["artifact"])
            else:
                assert isinstance(against, Recipes)
                their_key = replace(key, recipe=against.baseline)
                kind = bench.builds.kind(key.runtime)
                baseline = bench.builds.get(recipes[against.baseline], kind)
            for artifact in (candidate, baseline):
                bench.builds.columns(artifact)  # sizes the fp32 build while it can be made
        except rows.FAILURES as error:
            judge.failed(mine, error)
            continue
        contests.append(
            Contest(
                key,
                {cell.workload: cell for cell in mine},
                Side.of(bench, key, candidate, truths[key.recipe]),
                Side.of(bench, their_key, baseline, None if kept else truths[their_key.recipe]),
                _verdicts(bench.suite, mine, comparisons),
                _with_memory(bench.suite, mine),
            )
        )
    _judge_accuracy(bench, contests, judge)
    for contest in contests:
        judge.size(contest)
    return contests


def _judge_accuracy(bench: Bench, contests: Sequence[Contest], judge: Judge) -> None:
    """Score both sides of every contest with a rule of it, and compare them example by example."""
    task = bench.subject.task
    asked = [contest for contest in contests if judge.gates_accuracy(contest)]
    if task is None:
        for contest in asked:
            judge.without_task(contest)
        return
    sessions = [side.begin() for c in asked for side in (c.candidate, c.baseline)]
    scored: list[Scored | Exception] = [found for found, _ in bench.scores(sessions)]
    for number, contest in enumerate(asked):
        judge.accuracy(contest, task, scored[2 * number], scored[2 * number + 1])


def _with_memory(suite: Suite, cells: Sequence[Cell]) -> frozenset[str]:
    """Workloads of the cells that have a rule of memory."""
    table = suite.file.gate
    return frozenset(
        cell.workload for cell in cells if any(table.of(cell.label, metric) for metric in MEMORY)
    )


def _verdicts(suite: Suite, cells: Sequence[Cell], comparisons: int) -> dict[str, PairedVerdict]:
    """By workload, of the cells that have a latency rule."""
    table = suite.file.gate
    verdicts = {}
    for cell in cells:
        rule = table.of(cell.label, "latency")
        if isinstance(rule, LatencyRule):
            verdicts[cell.workload] = PairedVerdict(
                rule.ignore,
                rule.margin,
                table.alpha,
                table.beta,
                comparisons,
                table.max_pairs,
            )
    return verdicts
