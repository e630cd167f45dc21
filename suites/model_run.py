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
from suites.phase import run_phase
from suites.progress import Display
from suites.sessions import LiveSession, load_together


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
            sessions = [bench.session(key, artifacts[key], scored[key]) for key in block]
            with contextlib.ExitStack() as stack:
                for session in sessions:
                    stack.enter_context(session)
                self._measure_block(f"{bench.subject.name}-{number}", sessions, truths)
                self._display.stage(f"closing {len(sessions)} workers")

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

    def _measure_block(self, block: str, sessions: Sequence[LiveSession], truths: Truths) -> None:
        self._display.stage(f"starting {len(sessions)} workers")
        load_together(sessions)
        opened = [session for session in sessions if self._opened(session, block)]
        names = list(self._bench.workloads)
        self._random.shuffle(names)
        for name in names:
            pairs = [
                (session, cell)
                for session in opened
                for cell in self._cells_of(session.key)
                if cell.workload == name
            ]
            feeds = {s.key: self._bench.feed(name, s.artifact.signature) for s, _ in pairs}
            workload = self._suite.file.workloads[name]
            run = run_phase if workload.load is None else run_load_phase
            for outcome in run(
                pairs,
                workload,
                feeds,
                {recipe: outputs[name] for recipe, outputs in truths.items()},
                self._suite.plan,
                self._random.getrandbits(32),
                self._display.stage,
                self._yardstick,
            ):
                session = next(s for s, cell in pairs if cell == outcome.cell)
                # Where a task was scored, its whole test split says how the build predicts, and
                # one call's fidelity does not.
                columns = {
                    **outcome.columns,
                    **session.columns,
                    "start_s": session.start_s,
                    "open_s": session.open_s,
                }
                self._record(outcome.cell, columns, outcome.samples)

    def _opened(self, session: LiveSession, block: str) -> bool:
        """Open a session; where that fails, all its cells get their rows."""
        self._display.stage(f"opening {session.key.label}")
        session.columns["block"] = block
        try:
            _ = session.worker
        except rows.SESSION_FAILURES as error:
            self._fail(self._cells_of(session.key), error, session.columns)
            return False
        return True

    # Recording.

    def _cells_of(self, key: SessionKey) -> list[Cell]:
        return [cell for cell in self._cells if SessionKey.of(cell) == key]

    def _fail_recipe(self, name: str, error: Exception) -> None:
        self._fail([c for c in self._cells if c.recipe == name and c not in self._recorded], error)

    def _fail(
        self, cells: Sequence[Cell], error: Exception, columns: Mapping[str, Any] | None = None
    ) -> None:
        for cell in cells:
            self._record(cell, {**(columns or {}), **rows.failure(error)})

    def _record(
        self, cell: Cell, columns: dict[str, Any], samples: dict[str, np.ndarray] | None = None
    ) -> None:
        workload = self._suite.file.workloads[cell.workload]
        row = rows.identity(self._suite.name, cell, workload, self._order) | columns
        self._recorder.record(row, samples)
        self._recorded.add(cell)
        self._order += 1
        self._display.advance(cell.label, row["status"])
