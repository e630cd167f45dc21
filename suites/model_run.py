"""All cells of one model: build, open, check, score, measure in interleaved blocks, record."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compile.artifact import Artifact, Kind, Store
from compile.errors import InputError
from compile.models.resolve import Reference
from compile.signature import Feeds, Signature
from quantize.recipe import Recipe
from reports.store import RunStore
from runtimes import registry
from suites import rows, scoring
from suites.blocks import SessionKey, blocks, session_bytes
from suites.build import Builder, BuildRequest
from suites.cell import Cell
from suites.phase import run_phase
from suites.progress import Display
from suites.scoring import ScoreCache, Scored, Scorer
from suites.sessions import LiveSession
from suites.suite import Suite
from suites.suite_file import ModelEntry
from suites.tasks.task import Task
from suites.workload import load_examples, workload_feeds

FP32 = Recipe(name="fp32")


@dataclass(frozen=True)
class Truth:
    """What the builds of one recipe are held against."""

    outputs: dict[str, Feeds]
    """By workload: what the recipe's function gives in fp32."""
    scored: Scored | None
    """The test split through the fp32 model that no pass has touched; None without a task."""


@dataclass(frozen=True)
class Subject:
    """A model of the suite, found, with its task loaded."""

    name: str
    entry: ModelEntry
    found: Reference
    task: Task | None


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
    ) -> None:
        self._suite = suite
        self._subject = subject
        self._cells = list(cells)
        self._builder = builder
        self._recorder = recorder
        self._display = display
        self._logs = logs
        self._scorer = Scorer(subject.task, ScoreCache(store.root.parent / "scores"), display.stage)
        self._workloads = tuple(dict.fromkeys(cell.workload for cell in cells))
        self._user_examples: Feeds | None = None
        self._random = random.Random(f"{suite.file.seed}/{subject.name}")
        self._order = len(recorder.finished())
        self._recorded: set[Cell] = set()
        self._build_s: dict[str, float] = {}
        self._fp32_bytes: dict[Kind, int] = {}

    def run(self) -> None:
        try:
            base = self._base()
            self._check_workloads(base)
            artifacts = self._artifacts()
            truths = self._truths(base, {key.recipe for key in artifacts})
        except rows.FAILURES as error:
            # Without the fp32 model or its outputs nothing can be said of any build of it.
            for cell in self._cells:
                if cell not in self._recorded:
                    self._record(cell, rows.failure(error))
            return
        finally:
            self._builder.close()
        keys = list(artifacts)
        self._random.shuffle(keys)

        def size(key: SessionKey) -> int:
            return session_bytes(artifacts[key].bytes, key.runtime)

        for number, block in enumerate(blocks(keys, size)):
            sessions = [self._session(key, artifacts[key]) for key in block]
            try:
                self._measure_block(f"{self._subject.name}-{number}", sessions, truths)
            finally:
                for session in sessions:
                    session.close()

    # Building.

    def _base(self) -> Artifact:
        """The fp32 model itself. Without it there is nothing to compare: no cell can go on."""
        return self._build(FP32, "onnx" if self._subject.found.family == "onnx" else "torch")

    def _artifacts(self) -> dict[SessionKey, Artifact]:
        """Every session's artifact; a build that fails gives its cells their rows at once."""
        built: dict[tuple[str, Kind], Artifact | Exception] = {}
        artifacts = {}
        for key in dict.fromkeys(SessionKey.of(cell) for cell in self._cells):
            kind = self._kind(key)
            if (key.recipe, kind) not in built:
                try:
                    built[key.recipe, kind] = self._build(self._suite.recipes[key.recipe], kind)
                except rows.FAILURES as error:
                    built[key.recipe, kind] = error
            result = built[key.recipe, kind]
            if isinstance(result, Artifact):
                artifacts[key] = result
            else:
                for cell in self._cells_of(key):
                    self._record(cell, rows.failure(result))
        return artifacts

    def _kind(self, key: SessionKey) -> Kind:
        """The kind that a runtime opens; of several, the one that the model came as."""
        kinds = registry.entry(key.runtime).kinds
        return "onnx" if kinds == ("onnx",) or self._subject.found.family == "onnx" else "torch"

    def _build(self, recipe: Recipe, kind: Kind) -> Artifact:
        start = time.perf_counter()
        self._display.stage(f"building {self._subject.name} / {recipe.name} for {kind}")
        entry = self._subject.entry
        artifact = self._builder.build(
            BuildRequest(
                entry, self._suite.folder, self._suite.task(self._subject.name), recipe, kind
            )
        )
        self._build_s[artifact.key] = time.perf_counter() - start
        if recipe.name == FP32.name:
            self._fp32_bytes[kind] = artifact.bytes
        return artifact

    def _truths(self, base: Artifact, recipes: set[str]) -> dict[str, Truth]:
        """What each recipe's builds are held against. A recipe that makes another function on
        purpose (a student, a pruned model) is held to that function in fp32; what it costs in
        accuracy is counted against the base all the same."""
        runtime = self._suite.file.reference or (
            "onnxruntime-cpu" if base.kind == "onnx" else "torch-eager"
        )
        key = SessionKey(self._subject.name, FP32.name, runtime, "default", "cpu")
        outputs: dict[str, dict[str, Feeds]] = {}
        references = {}
        scored = None
        for name in [FP32.name, *sorted(recipes)]:
            trained = FP32 if name == FP32.name else self._suite.recipes[name].trained_part()
            artifact = self._build(trained, base.kind) if trained.passes else base
            references[name] = artifact
            if artifact.key in outputs:
                continue
            self._display.stage(f"reference outputs of {self._subject.name} / {name}")
            session = self._session(key, artifact)
            try:
                outputs[artifact.key] = {
                    workload: session.worker.run(given)
                    for workload, given in self._feeds(artifact.signature).items()
                }
                if name == FP32.name:
                    scored = self._scorer.score(session)
            finally:
                session.close()
        return {name: Truth(outputs[a.key], scored) for name, a in references.items()}

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

    def _session(self, key: SessionKey, artifact: Artifact) -> LiveSession:
        entry = self._suite.runtime(key.runtime)
        recipe = self._suite.recipes.get(key.recipe, FP32)
        threads = entry.threads or self._suite.threads
        return LiveSession(key, artifact, recipe.tolerance, entry, threads, self._logs)

    def _measure_block(
        self,
        block: str,
        sessions: Sequence[LiveSession],
        truths: dict[str, Truth],
    ) -> None:
        opened = [s for s in sessions if self._opened(s, block, truths[s.key.recipe])]
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
            references = {recipe: truth.outputs[name] for recipe, truth in truths.items()}
            for outcome in run_phase(
                pairs,
                self._suite.file.workloads[name],
                feeds,
                references,
                self._suite.plan,
                self._random.getrandbits(32),
                self._display.stage,
            ):
                session = next(s for s, cell in pairs if cell == outcome.cell)
                # Where a task was scored, its whole test split says how the build predicts, and
                # one call's fidelity does not.
                columns = {**outcome.columns, **session.columns, "open_s": session.open_s}
                self._record(outcome.cell, columns, outcome.samples)

    def _opened(self, session: LiveSession, block: str, truth: Truth) -> bool:
        """Open a session and score it; where that fails, all its cells get their rows."""
        self._display.stage(f"opening {session.key.label}")
        artifact = session.artifact
        session.columns = {
            **rows.size(artifact, self._fp32_bytes.get(artifact.kind)),
            "block": block,
            "build_s": self._build_s.get(artifact.key, 0.0),
        }
        try:
            _ = session.worker
            start = time.perf_counter()
            scored = self._scorer.score(session)
            if scored is not None and truth.scored is not None and self._subject.task is not None:
                session.columns |= scoring.columns(self._subject.task, scored, truth.scored)
                self._record_examples(session, scored, truth.scored)
            session.columns["accuracy_s"] = time.perf_counter() - start
        except rows.FAILURES as error:
            session.abandon_if_dead(error)
            for cell in self._cells_of(session.key):
                self._record(cell, {**session.columns, **rows.failure(error)})
            return False
        return True

    # Recording.

    def _cells_of(self, key: SessionKey) -> list[Cell]:
        return [cell for cell in self._cells if SessionKey.of(cell) == key]

    def _record(
        self, cell: Cell, columns: dict[str, Any], samples: dict[str, np.ndarray] | None = None
    ) -> None:
        workload = self._suite.file.workloads[cell.workload]
        row = rows.identity(self._suite.name, cell, workload, self._order) | columns
        self._recorder.record(row, samples)
        self._recorded.add(cell)
        self._order += 1
        self._display.advance(cell.label, row["status"])

    def _record_examples(self, session: LiveSession, scored: Scored, reference: Scored) -> None:
        assert self._subject.task is not None, "only a task gives examples"
        axes = {**asdict(session.key), "task": self._subject.task.name}
        self._recorder.record_examples(axes, scoring.stored_examples(scored, reference))
