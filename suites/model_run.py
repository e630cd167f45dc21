"""All cells of one model: build, open, check, score, measure in interleaved blocks, record."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compile.artifact import Artifact
from reports.store import RunStore
from suites import rows, scoring
from suites.bench import Bench, Truths
from suites.blocks import SessionKey, blocks, session_bytes
from suites.cell import Cell
from suites.load.phase import run_load_phase
from suites.measure.meters.speed import Yardstick
from suites.measure.plan import FEWEST_PROCESSES
from suites.measure.processes import share_of
from suites.phase import Outcome, Visit, visit
from suites.progress import Display
from suites.sessions import LiveSession, load_together
from suites.visits import hopeless, outcomes


class ModelRun:
    """One model's share of a run. ``run`` leaves a row for each of its cells."""

    def __init__(
        self,
        bench: Bench,
        cells: Sequence[Cell],
        recorder: RunStore,
        display: Display,
        yardstick: Yardstick,
    ) -> None:
        self._bench = bench
        self._yardstick = yardstick
        self._suite = bench.suite
        self._cells = list(cells)
        self._recorder = recorder
        self._display = display
        self._random = random.Random(f"{self._suite.file.seed}/{bench.subject.name}")
        self._order = len(recorder.finished())
        self._recorded: set[Cell] = set()
        self._process = ""
        """Said beside each stage of a block where there are several."""

    def run(self) -> None:
        bench = self._bench
        try:
            base = bench.builds.base()
            bench.check_workloads(base)
            artifacts = self._artifacts()
            recipes = {key.recipe: self._suite.recipes[key.recipe] for key in artifacts}
            truths = bench.truths(base, recipes, self._fail_recipe)
            artifacts = {key: a for key, a in artifacts.items() if key.recipe in truths}
            scored = self._scored(base, artifacts)
        except rows.FAILURES as error:
            # Without the fp32 model or its outputs nothing can be said of any build of it.
            self._fail([cell for cell in self._cells if cell not in self._recorded], error)
            return
        finally:
            bench.builds.close()
        keys = list(scored)
        self._random.shuffle(keys)

        def size(key: SessionKey) -> int:
            return session_bytes(artifacts[key].bytes, key.runtime)

        for number, block in enumerate(blocks(keys, size)):
            columns = {
                key: {**scored[key], "block": f"{bench.subject.name}-{number}"} for key in block
            }
            self._measure_block({key: artifacts[key] for key in block}, columns, truths)

    # Before the clock.

    def _artifacts(self) -> dict[SessionKey, Artifact]:
        """Every session's artifact; a build that fails gives its cells their rows at once."""
        builds = self._bench.builds
        artifacts = {}
        for key in dict.fromkeys(SessionKey.of(cell) for cell in self._cells):
            recipe = self._suite.recipes[key.recipe]
            try:
                artifacts[key] = builds.get(recipe, builds.kind(key.runtime))
            except rows.FAILURES as error:
                self._fail(self._cells_of(key), error)
            else:
                builds.columns(artifacts[key])  # sizes the fp32 build while it can be made
        return artifacts

    def _scored(
        self, base: Artifact, artifacts: Mapping[SessionKey, Artifact]
    ) -> dict[SessionKey, dict[str, Any]]:
        """The accuracy columns of each session, its examples recorded; those without a task have
        none. A session that cannot be scored gives its cells their rows and is left out."""
        bench = self._bench
        task = bench.subject.task
        if task is None:
            return {key: {} for key in artifacts}
        reference = bench.session(bench.reference(base), base)
        sessions = [bench.session(key, artifact) for key, artifact in artifacts.items()]
        (truth, _), *results = bench.scores([reference, *sessions])
        if isinstance(truth, Exception):
            raise truth
        columns = {}
        for session, (scored, seconds) in zip(sessions, results, strict=True):
            if isinstance(scored, Exception):
                self._fail(self._cells_of(session.key), scored, session.columns)
                continue
            columns[session.key] = {
                **scoring.columns(task, scored, truth),
                "accuracy_s": seconds,
            }
            self._recorder.record_examples(
                bench.example_identity(session.key), scoring.stored_examples(scored, truth)
            )
        return columns

    # Opening and measuring.

    def _measure_block(
        self,
        artifacts: Mapping[SessionKey, Artifact],
        columns: Mapping[SessionKey, Mapping[str, Any]],
        truths: Truths,
    ) -> None:
        """Every workload in one process of each session after another. A load's episodes are long
        and its requests many: they have the first processes alone."""
        bench = self._bench
        loads = [work.load is not None for work in self._suite.file.workloads.values()]
        processes = 1 if all(loads) else self._suite.plan.processes
        visits: dict[Cell, list[Visit]] = {}
        for number in range(processes):
            sessions = [
                bench.session(key, artifact, columns[key])
                for key, artifact in artifacts.items()
                if self._left(key)
            ]
            if not sessions:
                return
            if processes > 1:
                self._process = f", process {number + 1} of {processes}"
            with contextlib.ExitStack() as stack:
                for session in sessions:
                    stack.enter_context(session)
                self._stage(f"starting {len(sessions)} workers")
                load_together(sessions)
                opened = [session for session in sessions if self._opened(session, visits)]
                names = list(bench.workloads)
                self._random.shuffle(names)
                for name in names:
                    self._measure_workload(name, opened, truths, visits, processes - number - 1)
                self._stage(f"closing {len(sessions)} workers")

    def _measure_workload(
        self,
        name: str,
        opened: Sequence[LiveSession],
        truths: Truths,
        visits: dict[Cell, list[Visit]],
        to_come: int,
    ) -> None:
        """One workload in the processes that are open, after which so many are ``to_come``. A cell
        that need not go on has its row at once, the others have one for the time being: a run may
        be killed."""
        pairs = [
            (session, cell)
            for session in opened
            for cell in self._left(session.key)
            if cell.workload == name
        ]
        if not pairs:
            return
        workload = self._suite.file.workloads[name]
        given = (
            pairs,
            workload,
            {s.key: self._bench.feed(name, s.artifact.signature) for s, _ in pairs},
            {recipe: outputs[name] for recipe, outputs in truths.items()},
        )
        seed = self._random.getrandbits(32)
        columns = {cell: session.columns for session, cell in pairs}
        if workload.load is not None:
            plan = self._suite.plan
            for outcome in run_load_phase(*given, plan, seed, self._stage, self._yardstick):
                session = next(s for s, cell in pairs if cell == outcome.cell)
                self._record_outcome(outcome, {**session.columns, **session.timings})
            return
        whole = self._suite.plan
        for found in visit(*given, share_of(whole), seed, self._stage, self._yardstick):
            visits.setdefault(found.cell, []).append(found)
            if found.failure is not None or hopeless(visits[found.cell], whole.processes):
                self._end(found.cell, visits, columns[found.cell])
        together = {cell: visits[cell] for cell in columns if cell in visits}
        had = whole.processes - to_come
        if had == 1 or had >= FEWEST_PROCESSES:
            for outcome in outcomes(together, whole):
                self._record_outcome(outcome, columns[outcome.cell], for_now=to_come > 0)

    def _end(self, cell: Cell, visits: dict[Cell, list[Visit]], columns: Mapping[str, Any]) -> None:
        """The row of a cell that failed, or that more processes cannot help."""
        for outcome in outcomes({cell: visits.pop(cell)}, self._suite.plan):
            self._record_outcome(outcome, columns)

    def _opened(self, session: LiveSession, visits: dict[Cell, list[Visit]]) -> bool:
        """Open a session; where that fails, all its cells that are left get their rows."""
        self._stage(f"opening {session.key.label}")
        try:
            _ = session.worker
        except rows.SESSION_FAILURES as error:
            for cell in self._left(session.key):
                visits.setdefault(cell, []).append(Visit(cell, {}, failure=error))
                self._end(cell, visits, session.columns)
            return False
        return True

    def _stage(self, text: str, fraction: float = 0.0) -> None:
        self._display.stage(text + self._process, fraction)

    # Recording.

    def _cells_of(self, key: SessionKey) -> list[Cell]:
        return [cell for cell in self._cells if SessionKey.of(cell) == key]

    def _left(self, key: SessionKey) -> list[Cell]:
        return [cell for cell in self._cells_of(key) if cell not in self._recorded]

    def _fail_recipe(self, name: str, error: Exception) -> None:
        self._fail([c for c in self._cells if c.recipe == name and c not in self._recorded], error)

    def _fail(
        self, cells: Sequence[Cell], error: Exception, columns: Mapping[str, Any] | None = None
    ) -> None:
        for cell in cells:
            self._record(cell, {**(columns or {}), **rows.failure(error)})

    def _record_outcome(
        self, outcome: Outcome, columns: Mapping[str, Any], for_now: bool = False
    ) -> None:
        self._record(outcome.cell, {**outcome.columns, **columns}, outcome.samples, for_now)

    def _record(
        self,
        cell: Cell,
        columns: dict[str, Any],
        samples: dict[str, np.ndarray] | None = None,
        for_now: bool = False,
    ) -> None:
        workload = self._suite.file.workloads[cell.workload]
        row = rows.identity(self._suite.name, cell, workload, self._order) | columns
        self._recorder.record(row, samples, for_now)
        if for_now:
            return
        self._recorded.add(cell)
        self._order += 1
        self._display.advance(cell.label, row["status"])
