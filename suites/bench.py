"""Everything that stands ready before one model's builds are timed.

Its artifacts, the outputs that they are held against, their scores, the sessions in which they
live and the inputs that they are given. A run and a gate both begin here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compile.artifact import Artifact, Store
from compile.errors import InputError
from compile.signature import Feeds, Signature
from quantize.recipe import Recipe, load_recipe
from suites import rows
from suites.blocks import SessionKey
from suites.builder import Builder
from suites.builds import PLAIN, Builds
from suites.scorer import ScoreCache, Scorer
from suites.scoring import Scored
from suites.sessions import LiveSession, load_together
from suites.subject import Subject
from suites.suite import FP32, Suite
from suites.workload import load_examples, workload_feeds

Truths = Mapping[str, Mapping[str, Feeds]]
"""By recipe and workload: the outputs that builds are held against."""


class Bench:
    """One model of a suite on one machine."""

    def __init__(
        self,
        suite: Suite,
        subject: Subject,
        store: Store,
        builder: Builder,
        stage: Callable[[str, float], None],
        logs: Path,
        versions: Mapping[str, Mapping[str, str]],
        workloads: Sequence[str],
    ) -> None:
        """``versions`` are those of the distributions that each runtime stands on."""
        self.suite = suite
        self.subject = subject
        self.builds = Builds(suite, subject, builder, lambda text: stage(text, 0.0))
        self.workloads = tuple(workloads)
        self._stage = stage
        self._logs = logs
        self._scores = ScoreCache(store.root.parent / "scores")
        self._versions = versions
        self._user_examples: Feeds | None = None

    def check_workloads(self, base: Artifact) -> None:
        """Raise InputError for a workload that the model cannot take, before anything is built."""
        self._user_examples = load_examples(base.folder)
        for name in self.workloads:
            try:
                self.feed(name, base.signature)
            except InputError as error:
                raise InputError(
                    f"{self.suite.path}: workloads.{name}, model {self.subject.name!r}: {error}"
                ) from error

    def feed(self, workload: str, signature: Signature) -> Feeds:
        """A workload's inputs. They are made for each build anew, because a shallower student has
        fewer caches and a half precision module other types."""
        return workload_feeds(
            self.suite.file.workloads[workload],
            signature,
            self.subject.task,
            self._user_examples,
            self.suite.file.seed,
        )

    def truths(
        self,
        base: Artifact,
        recipes: Mapping[str, Recipe],
        on_failure: Callable[[str, Exception], None],
    ) -> Truths:
        """The first output of each workload for each recipe. A recipe that makes another function
        on purpose (a student, a pruned model) is held to that function in fp32; what it costs in
        accuracy is counted against the base all the same.

        Whatever fails for a recipe is told, and the recipe left out; a base that fails is raised.
        """
        references = {FP32: base}
        for name in sorted(recipes.keys() - {FP32}):
            trained = recipes[name].trained_part()
            try:
                references[name] = self.builds.get(trained, base.kind) if trained.passes else base
            except rows.FAILURES as error:
                on_failure(name, error)
        sessions = {a.key: self.session(self.reference(base), a) for a in references.values()}
        self._stage(f"reference outputs of {self.subject.name}", 0.0)
        outputs: dict[str, dict[str, Feeds] | Exception] = {}
        with contextlib.ExitStack() as stack:
            for session in sessions.values():
                stack.enter_context(session)
            load_together(list(sessions.values()))
            for made, session in sessions.items():
                outputs[made] = self._outputs(session)
                session.close()
        truths = {}
        for name, artifact in references.items():
            found = outputs[artifact.key]
            if not isinstance(found, Exception):
                truths[name] = found
            elif artifact is base:
                raise found
            else:
                on_failure(name, found)
        return truths

    def _outputs(self, session: LiveSession) -> dict[str, Feeds] | Exception:
        found = {}
        try:
            for workload in self.workloads:
                given = self.feed(workload, session.artifact.signature)
                name, first = next(iter(session.worker.run(given).items()))
                found[workload] = {name: first}
        except rows.SESSION_FAILURES as error:
            return error
        return found

    def recipe(self, name: str) -> Recipe:
        """One that a cell names, or any other by its name or file."""
        if name == FP32:
            return PLAIN
        return self.suite.recipes.get(name) or load_recipe(name, self.suite.folder)

    def reference(self, base: Artifact) -> SessionKey:
        """The fp32 session that everything is held against."""
        runtime = self.suite.file.reference or (
            "onnxruntime-cpu" if base.kind == "onnx" else "torch-eager"
        )
        return SessionKey(self.subject.name, FP32, runtime, "default", "cpu")

    def scores(self, sessions: Sequence[LiveSession]) -> list[tuple[Scored | Exception, float]]:
        """Each session's results on the task's test split, or what ended them, and the seconds."""
        assert self.subject.task is not None, "without a task there is nothing to score"
        scorer = Scorer(self.subject.task, self._scores, self._versions, self._stage)
        return scorer.score(sessions)

    def session(
        self, key: SessionKey, artifact: Artifact, columns: Mapping[str, Any] | None = None
    ) -> LiveSession:
        """A session that is not begun yet. ``columns`` join those of its artifact."""
        entry = self.suite.runtime(key.runtime)
        recipe = self.suite.recipes.get(key.recipe, PLAIN)
        threads = entry.threads or self.suite.threads
        session = LiveSession(key, artifact, recipe.tolerance, entry, threads, self._logs)
        session.columns = {**self.builds.columns(artifact), **(columns or {})}
        return session

    def example_identity(self, key: SessionKey) -> dict[str, Any]:
        """What names a session's rows in ``examples.parquet``."""
        assert self.subject.task is not None
        return {**asdict(key), "task": self.subject.task.name}
