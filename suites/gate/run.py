"""``assay gate``: is the candidate fit to replace the baseline?

The suite's builds are made, and every one is held to the baseline's build of the same cell: a
kept artifact of an earlier release, or another recipe of the same model. What is compared is
measured now, in pairs, on this machine; nothing that was measured on another day is judged.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from compile.artifact import Artifact, Store
from compile.errors import InputError
from quantize.recipe import Recipe, load_recipe
from reports.gate import GateReport
from runtimes import doctor
from suites import rows
from suites.bench import Bench
from suites.blocks import SessionKey
from suites.builder import Builder
from suites.builds import PLAIN
from suites.cell import Cell
from suites.gate.contest import Contest, Side
from suites.gate.judge import Judge
from suites.gate.kept import KeptBaseline, keep, require_replaceable
from suites.gate.pair import PairPlan
from suites.gate.rules import LatencyRule
from suites.gate.verdict import USUAL_SPREAD, PairedVerdict
from suites.progress import Display
from suites.reading import asked_runtimes, read_suite
from suites.scoring import Scored
from suites.subject import Subject, find_subject
from suites.suite import FP32, Suite, load_suite

PILOT_PAIRS = 4
"""Of a baseline with itself, when it is kept: they say how much pairs differ by chance."""


@dataclass(frozen=True)
class Recipes:
    """A gate between two recipes of the same models."""

    candidate: str
    baseline: str


@dataclass(frozen=True)
class _House:
    """What a gate works with."""

    suite: Suite
    cells: tuple[Cell, ...]
    subjects: Mapping[str, Subject]
    environment: Mapping[str, Any]
    versions: Mapping[str, Mapping[str, str]]
    store: Store
    display: Display
    logs: Path

    @contextmanager
    def bench(self, subject: Subject, cells: Sequence[Cell]) -> Iterator[Bench]:
        with Builder(self.store, self.logs / "builder.log", self.display.stage) as builder:
            workloads = tuple(dict.fromkeys(cell.workload for cell in cells))
            yield Bench(
                self.suite,
                subject,
                self.store,
                builder,
                self.display.stage,
                self.logs,
                self.versions,
                workloads,
            )


def gate(
    reference: str,
    against: Path | Recipes,
    *,
    only: str | None = None,
    slow_down: float = 0.0,
    seed: int | None = None,
    plan: PairPlan | None = None,
    console: Console | None = None,
) -> GateReport:
    """Hold the suite's builds to a kept baseline (a folder), or one recipe's to another's.

    ``slow_down`` makes every call of a candidate last that share longer, to see whether the gate
    notices; such a gate cannot pass. ``seed`` decides the coins; by default they are fresh. Raises
    InputError for what the user can mend; whatever ends one cell is a finding.
    """
    if not 0 <= slow_down <= 1:
        raise InputError(f"a slow-down must lie between 0 and 1, not {slow_down:g}")
    start = time.perf_counter()
    kept = KeptBaseline.load(against) if isinstance(against, Path) else None
    with _house(reference, only, console) as house:
        table = house.suite.file.gate
        cells = house.cells
        if isinstance(against, Recipes):
            cells = tuple(cell for cell in cells if cell.recipe == against.candidate)
            if not cells:
                have = ", ".join(dict.fromkeys(cell.recipe for cell in house.cells))
                raise InputError(
                    f"{house.suite.path}: no cell has the candidate recipe {against.candidate!r}; "
                    f"there are {have}"
                )
        table.check([cell.label for cell in cells], str(house.suite.path))
        judge = Judge(table)
        if kept is not None:
            cells = judge.matched(cells, house.suite, kept, only)
        elif only is not None:
            judge.partial(len(cells), only)
        if slow_down:
            judge.slowed(slow_down)
        latency_rules = sum(table.of(cell.label, "latency") is not None for cell in cells)
        pairing = random.Random(seed)
        for name, subject in house.subjects.items():
            mine = [cell for cell in cells if cell.model == name]
            if not mine:
                continue
            if kept is not None:
                now = subject.task.fingerprint if subject.task else None
                judge.data(name, now, kept.data.get(name))
            with house.bench(subject, mine) as bench:
                contests = _contests(bench, mine, against, kept, judge, latency_rules)
                bench.builds.close()
                for contest in contests:
                    contest.candidate = replace(contest.candidate, slow_down=slow_down)
                _measure(contests, pairing, plan or PairPlan(), house.display)
                for contest in contests:
                    judge.measured(contest)
        facts = {
            "alpha": table.alpha,
            "beta": table.beta,
            "comparisons": latency_rules,
            "seconds": time.perf_counter() - start,
            "environment": house.environment,
        }
        named = against.baseline if isinstance(against, Recipes) else f"the baseline in {against}"
        return GateReport(house.suite.name, str(named), judge.findings, facts)


def keep_baseline(reference: str, folder: Path, *, console: Console | None = None) -> int:
    """Build the suite and keep its artifacts as a baseline in ``folder``. Returns how many.

    Each session is held to its reference and measured against itself a few times. Raises
    InputError where a cell fails: a baseline with holes would let a later gate pass them.
    """
    with _house(reference, None, console) as house:
        if folder.exists():
            require_replaceable(folder, house.suite.name)
        house.suite.file.gate.check([c.label for c in house.cells], str(house.suite.path))
        cells: dict[str, dict[str, Any]] = {}
        artifacts: dict[str, Artifact] = {}
        data: dict[str, str | None] = {}
        for name, subject in house.subjects.items():
            mine = [cell for cell in house.cells if cell.model == name]
            data[name] = subject.task.fingerprint if subject.task else None
            with house.bench(subject, mine) as bench:
                contests = _against_themselves(bench, mine)
                bench.builds.close()
                _measure(contests, random.Random(), PairPlan(), house.display)
            for contest in contests:
                if contest.failure is not None:
                    raise InputError(
                        f"{contest.key.label} cannot be kept: "
                        f"{rows.failure(contest.failure)['reason']}"
                    )
                artifact = contest.candidate.artifact
                artifacts[artifact.key] = artifact
                for workload, cell in contest.cells.items():
                    seen = contest.verdicts[workload].differences
                    cells[cell.id] = {
                        "label": cell.label,
                        "artifact": artifact.key,
                        # Both sides were one artifact: the mean is known, and is zero.
                        "spread": float(np.sqrt(np.mean(np.square(seen)))) if seen else None,
                    }
        keep(
            folder,
            house.suite.name,
            cells,
            data,
            artifacts,
            {"environment": house.environment, "suite_text": house.suite.text},
        )
        return len(cells)


@contextmanager
def _house(reference: str, only: str | None, console: Console | None) -> Iterator[_House]:
    console = console or Console(stderr=True)
    file, _, _ = read_suite(reference)
    with console.status("looking at this machine, models and data"):
        environment = doctor.environment()
        pythons = {name: entry.python for name, entry in file.runtimes.items() if entry.python}
        survey = dict(doctor.survey(pythons, asked_runtimes(file)))
        available = [name for name, found in survey.items() if found.available]
        suite = load_suite(reference, available, cuda=bool(environment["gpus"]))
        cells = suite.only(only) if only else suite.cells
        names = dict.fromkeys(cell.model for cell in cells)
        subjects = {name: find_subject(suite, name, cells) for name in names}
    versions = {name: found.versions for name, found in survey.items()}
    with Display(console=console) as display, tempfile.TemporaryDirectory() as logs:
        yield _House(
            suite,
            cells,
            subjects,
            environment,
            versions,
            Store.default(),
            display,
            Path(logs),
        )


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
    grouped: dict[SessionKey, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(SessionKey.of(cell), []).append(cell)
    recipes = {key.recipe: _recipe(bench.suite, key.recipe) for key in grouped}
    if isinstance(against, Recipes):
        recipes[against.baseline] = _recipe(bench.suite, against.baseline)
    failed: dict[str, Exception] = {}
    truths = bench.truths(base, recipes, failed.__setitem__)
    contests = []
    for key, mine in grouped.items():
        try:
            for recipe in (key.recipe, *([] if kept else [against.baseline])):  # type: ignore[union-attr]
                if recipe in failed:
                    raise failed[recipe]
            candidate = bench.builds.get(recipes[key.recipe], bench.builds.kind(key.runtime))
            their_key, spread = key, USUAL_SPREAD
            if kept is not None:
                facts = kept.cells[mine[0].id]
                baseline = kept.artifact(facts["artifact"])
                spread = facts["spread"] or USUAL_SPREAD
            else:
                assert isinstance(against, Recipes)
                their_key = replace(key, recipe=against.baseline)
                kind = bench.builds.kind(key.runtime)
                baseline = bench.builds.get(recipes[against.baseline], kind)
        except rows.FAILURES as error:
            judge.failed(mine, error)
            continue
        contests.append(
            Contest(
                key,
                {cell.workload: cell for cell in mine},
                _side(bench, key, candidate, truths[key.recipe]),
                _side(bench, their_key, baseline, None if kept else truths[their_key.recipe]),
                _verdicts(bench.suite, mine, comparisons, spread),
            )
        )
    _judge_accuracy(bench, contests, judge)
    for contest in contests:
        judge.size(contest)
    return contests


def _judge_accuracy(bench: Bench, contests: Sequence[Contest], judge: Judge) -> None:
    """Score both sides of every contest, and compare them example by example."""
    task = bench.subject.task
    if task is None:
        return
    sessions = [side.begin() for c in contests for side in (c.candidate, c.baseline)]
    scored: list[Scored | Exception] = [found for found, _ in bench.scores(sessions)]
    for number, contest in enumerate(contests):
        judge.accuracy(contest, task, scored[2 * number], scored[2 * number + 1])


def _against_themselves(bench: Bench, cells: Sequence[Cell]) -> list[Contest]:
    """Contests in which both sides are the same artifact, of a few pairs each."""
    base = bench.builds.base()
    bench.check_workloads(base)
    grouped: dict[SessionKey, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(SessionKey.of(cell), []).append(cell)
    recipes = {key.recipe: _recipe(bench.suite, key.recipe) for key in grouped}

    def refuse(recipe: str, error: Exception) -> None:
        raise InputError(f"recipe {recipe!r} cannot be kept: {error}") from error

    truths = bench.truths(base, recipes, refuse)
    contests = []
    for key, mine in grouped.items():
        try:
            artifact = bench.builds.get(recipes[key.recipe], bench.builds.kind(key.runtime))
        except rows.FAILURES as error:
            raise InputError(f"{key.label} cannot be kept: {error}") from error
        side = _side(bench, key, artifact, truths[key.recipe])
        verdicts = {
            cell.workload: PairedVerdict(0.0, 1.0, 1e-9, 1e-9, 1, PILOT_PAIRS) for cell in mine
        }
        contests.append(Contest(key, {c.workload: c for c in mine}, side, side, verdicts))
    return contests


def _side(
    bench: Bench, key: SessionKey, artifact: Artifact, truths: Mapping[str, Any] | None
) -> Side:
    feeds = {name: bench.feed(name, artifact.signature) for name in bench.workloads}
    return Side(artifact, lambda: bench.session(key, artifact), feeds, truths)


def _verdicts(
    suite: Suite, cells: Sequence[Cell], comparisons: int, spread: float
) -> dict[str, PairedVerdict]:
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
                spread,
            )
    return verdicts


def _measure(
    contests: Sequence[Contest], pairing: random.Random, plan: PairPlan, display: Display
) -> None:
    """Pair after pair, the contests taking turns in random order, until all are decided."""
    while live := [contest for contest in contests if not contest.finished]:
        pairing.shuffle(live)
        for contest in live:
            display.stage(
                f"{contest.key.label}, pair {contest.pairs + 1}",
                sum(c.progress for c in contests) / len(contests),
            )
            try:
                contest.next_pair(pairing.random() < 0.5, plan)
            except rows.SESSION_FAILURES as error:
                contest.failure = error


def _recipe(suite: Suite, name: str) -> Recipe:
    if name == FP32:
        return PLAIN
    return suite.recipes.get(name) or load_recipe(name, suite.folder)
