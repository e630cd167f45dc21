"""All cells of one model: build, open, check, score, measure in interleaved blocks, record."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compile.artifact import Artifact, Store
from compile.errors import InputError
from compile.signature import Feeds, Signature
from reports.store import RunStore
from suites import rows, scoring
from suites.blocks import SessionKey, blocks, session_bytes
from suites.builder import Builder
from suites.builds import PLAIN, Builds
from suites.cell import Cell
from suites.phase import run_phase
from suites.progress import Display
from suites.scorer import ScoreCache, Scorer
from suites.sessions import LiveSession, load_together
from suites.subject import Subject
from suites.suite import FP32, Suite
from suites.workload import load_examples, workload_feeds


class ModelRun:
    """One model's share of a run. ``run`` leaves a row for each of its cells."""

    def __init__(
        self,
        suite: Suite,
        subject: Subject,
        cells: Sequence[Cell],
        store: Store,
        builder: Builder,
        recorder: RunStore,
        display: Display,
        logs: Path,
        versions: Mapping[str, Mapping[str, str]],
    ) -> None:
        """``versions`` are those of the distributions that each runtime stands on."""
        self._suite = suite
        self._subject = subject
        self._cells = list(cells)
        self._recorder = recorder
        self._display = display
        self._logs = logs
        self._builds = Builds(suite, subject, builder, display.stage)
        self._scores = ScoreCache(store.root.parent / "scores")
        self._versions = versions
        self._workloads = tuple(dict.fromkeys(cell.workload for cell in cells))
        self._user_examples: Feeds | None = None
        self._random = random.Random(f"{suite.file.seed}/{subject.name}")
        self._order = len(recorder.finished())
        self._recorded: set[Cell] = set()

    def run(self) -> None:
        try:
            base = self._builds.base()
            self._check_workloads(base)
            artifacts = self._artifacts()
            truths = self._truths(base, {key.recipe for key in artifacts})
            artifacts = {key: a for key, a in artifacts.items() if key.recipe in truths}
            scored = self._scored(base, artifacts)
        except rows.FAILURES as error:
            # Without the fp32 model or its outputs nothing can be said of any build of it.
            self._fail([cell for cell in self._cells if cell not in self._recorded], error)
            return
        finally:
            self._builds.close()
        keys = list(scored)
        self._random.shuffle(keys)

        def size(key: SessionKey) -> int:
            return session_bytes(artifacts[key].bytes, key.runtime)

        for number, block in enumerate(blocks(keys, size)):
            sessions = [self._session(key, artifacts[key], scored[key]) for key in block]
            try:
                self._measure_block(f"{self._subject.name}-{number}", sessions, truths)
            finally:
                self._display.stage(f"closing {len(sessions)} workers")
                for session in sessions:
                    session.close()

    # What builds are held against.

    def _artifacts(self) -> dict[SessionKey, Artifact]:
        """Every session's artifact; a build that fails gives its cells their rows at once."""
        artifacts = {}
        for key in dict.fromkeys(SessionKey.of(cell) for cell in self._cells):
            recipe = self._suite.recipes[key.recipe]
            try:
                artifacts[key] = self._builds.get(recipe, self._builds.kind(key.runtime))
            except rows.FAILURES as error:
                self._fail(self._cells_of(key), error)
            else:
                self._builds.columns(artifacts[key])  # sizes the fp32 build while it can be made
        return artifacts

    def _truths(self, base: Artifact, recipes: set[str]) -> dict[str, dict[str, Feeds]]:
        """By recipe and workload: the outputs that its builds are held against. A recipe that
        makes another function on purpose (a student, a pruned model) is held to that function in
        fp32; what it costs in accuracy is counted against the base all the same."""
        references = {FP32: base}
        for name in sorted(recipes - {FP32}):
            trained = self._suite.recipes[name].trained_part()
            try:
                references[name] = self._builds.get(trained, base.kind) if trained.passes else base
            except rows.FAILURES as error:
                self._fail_recipe(name, error)
        sessions = {a.key: self._session(self._reference(base), a) for a in references.values()}
        self._display.stage(f"reference outputs of {self._subject.name}")
        outputs: dict[str, dict[str, Feeds] | Exception] = {}
        try:
            load_together(list(sessions.values()))
            for made, session in sessions.items():
                outputs[made] = self._outputs(session)
                session.close()
        finally:
            for session in sessions.values():
                session.close()
        truths = {}
        for name, artifact in references.items():
            found = outputs[artifact.key]
            if not isinstance(found, Exception):
                truths[name] = found
            elif artifact is base:
                raise found
            else:
                self._fail_recipe(name, found)
        return truths

    def _outputs(self, session: LiveSession) -> dict[str, Feeds] | Exception:
        """By workload, the first output alone: it is what is compared."""
        found = {}
        try:
            for workload, given in self._feeds(session.artifact.signature).items():
                name, first = next(iter(session.worker.run(given).items()))
                found[workload] = {name: first}
        except rows.SESSION_FAILURES as error:
            return error
        return found

    def _reference(self, base: Artifact) -> SessionKey:
        """The fp32 session that everything is held against."""
        runtime = self._suite.file.reference or (
            "onnxruntime-cpu" if base.kind == "onnx" else "torch-eager"
        )
        return SessionKey(self._subject.name, FP32, runtime, "default", "cpu")

    def _scored(
        self, base: Artifact, artifacts: Mapping[SessionKey, Artifact]
    ) -> dict[SessionKey, dict[str, Any]]:
        """The accuracy columns of each session, its examples recorded; those without a task have
        none. A session that cannot be scored gives its cells their rows and is left out."""
        task = self._subject.task
        if task is None:
            return {key: {} for key in artifacts}
        scorer = Scorer(task, self._scores, self._versions, self._display.stage)
        reference = self._session(self._reference(base), base)
        sessions = [self._session(key, artifact) for key, artifact in artifacts.items()]
        (truth, _), *results = scorer.score([reference, *sessions])
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
                {**asdict(session.key), "task": task.name}, scoring.stored_examples(scored, truth)
            )
        return columns

    # Inputs.

    def _check_workloads(self, base: Artifact) -> None:
        """Raise InputError for a workload that the model cannot take, before anything is built."""
        self._user_examples = load_examples(base.folder)
        for name in self._workloads:
            try:
                self._feed(name, base.signature)
            except InputError as error:
                raise InputError(
                    f"{self._suite.path}: workloads.{name}, model {self._subject.name!r}: {error}"
                ) from error

    def _feeds(self, signature: Signature) -> dict[str, Feeds]:
        """The inputs of each workload, by its name. They are made for each build anew, because
        a shallower student has fewer caches and a half precision module other types."""
        return {name: self._feed(name, signature) for name in self._workloads}

    def _feed(self, workload: str, signature: Signature) -> Feeds:
        return workload_feeds(
            self._suite.file.workloads[workload],
            signature,
            self._subject.task,
            self._user_examples,
            self._suite.file.seed,
        )

    # Opening and measuring.

    def _session(
        self, key: SessionKey, artifact: Artifact, columns: dict[str, Any] | None = None
    ) -> LiveSession:
        entry = self._suite.runtime(key.runtime)
        recipe = self._suite.recipes.get(key.recipe, PLAIN)
        threads = entry.threads or self._suite.threads
        session = LiveSession(key, artifact, recipe.tolerance, entry, threads, self._logs)
        session.columns = {**self._builds.columns(artifact), **(columns or {})}
        return session

    def _measure_block(
        self,
        block: str,
        sessions: Sequence[LiveSession],
        truths: Mapping[str, Mapping[str, Feeds]],
    ) -> None:
        self._display.stage(f"starting {len(sessions)} workers")
        load_together(sessions)
        opened = [session for session in sessions if self._opened(session, block)]
        names = list(self._workloads)
        self._random.shuffle(names)
        for name in names:
            pairs = [
                (session, cell)
                for session in opened
                for cell in self._cells_of(session.key)
                if cell.workload == name
            ]
            feeds = {s.key: self._feed(name, s.artifact.signature) for s, _ in pairs}
            for outcome in run_phase(
                pairs,
                self._suite.file.workloads[name],
                feeds,
                {recipe: outputs[name] for recipe, outputs in truths.items()},
                self._suite.plan,
                self._random.getrandbits(32),
                self._display.stage,
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
