"""What pruning keeps of two trained models, and what it makes faster. Prints Markdown.

    python -m scripts.pruning                 # the classifier and the decoder
    python -m scripts.pruning --model encoder-small

Every method at half of the weights, unstructured and 2:4, before and after recovery, from the
labels and from the unpruned model's logits; half of the heads and feed-forward columns cut out,
recovered by both. Scores are the tasks' on their test splits, in float32 by torch, their drops
paired with the unpruned model's. Times are ratios: the unpruned build and another take turns in
random order in processes of their own, in several fresh pairs.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compile.artifact import Artifact, Kind, Store
from quantize.recipe import Recipe, recipe_from_table
from runtimes.client import Worker
from runtimes.session import SessionOptions
from suites.builder import Builder, BuildRequest
from suites.measure.processes import between
from suites.scoring import Scored, score
from suites.suite_file import ModelEntry
from suites.tasks.registry import load_task
from suites.tasks.task import Task

MODELS = {"encoder-small": "classification", "decoder-small": "causal-lm"}
STRUCTURED = "structured"
PAIRS = 5
ROUNDS = 8
"""Of each pair."""
SECONDS = 0.25
SIZES = {
    "1 x 128": {"batch": 1, "sequence": 128},
    "8 x 128": {"batch": 8, "sequence": 128},
}
DECODE = {"1 after 128": {"batch": 1, "sequence": 1, "past": 128}}
RECOVERIES: dict[str, dict[str, Any]] = {"none": {}, "labels": {}, "logits": {"alpha": 1.0}}
KINDS: dict[str, Kind] = {"onnxruntime-cpu": "onnx", "torch-eager": "torch"}


@dataclass(frozen=True)
class Way:
    """One way to prune; ``table`` is its pass."""

    method: str
    pattern: str
    table: dict[str, Any]

    def recipe(self, recovery: str) -> Recipe:
        changes = {} if self.method == STRUCTURED else RECOVERIES[recovery]
        if recovery == "none":
            changes = {"steps": 0}
        table = {**self.table, **changes}
        return recipe_from_table(self.method, {"passes": [table]}, "scripts.pruning")


def ways() -> list[Way]:
    methods = ("magnitude", "wanda", "sparsegpt")
    # Magnitude is given examples too, on which what it costs each layer is measured.
    base = {"pass": "prune", "examples": 128}
    layer = {**base, "method": "magnitude", "scope": "layer"}
    return [
        Way("magnitude, one threshold", "unstructured", {**base, "method": "magnitude"}),
        Way("magnitude, by layer", "unstructured", layer),
        *(Way(m, "unstructured", {**base, "method": m}) for m in methods[1:]),
        *(Way(m, "2:4", {**base, "method": m, "pattern": "2:4"}) for m in methods),
        Way(STRUCTURED, "heads and columns", {"pass": "prune_structured"}),
    ]


@dataclass
class Bench:
    """One model: its builds, and its task's scores of them."""

    source: str
    builder: Builder
    logs: Path
    options: SessionOptions

    @property
    def task_name(self) -> str:
        return MODELS[self.source]

    def build(self, recipe: Recipe, kind: Kind = "torch") -> Artifact:
        entry = ModelEntry(source=self.source, task=self.task_name)
        return self.builder.build(BuildRequest(entry, Path.cwd(), self.task_name, recipe, kind))

    def score(self, task: Task, artifact: Artifact) -> Scored:
        with Worker.start("torch-eager", log_dir=self.logs, threads=self.options.threads) as worker:
            worker.open(artifact.folder, self.options)
            return score(task.for_artifact(artifact), worker.answer)

    def accuracy(self) -> Iterator[str]:
        """Lines of the table of what each way keeps."""
        task = load_task(self.task_name)
        plain = self.score(task, self.build(Recipe(name="fp32")))
        known = task.summary(plain.examples)
        # A language model's drop is that of its bits per byte, relative; people read perplexity.
        metric = "perplexity" if "perplexity" in known else task.metric
        drops = "rise of bits per byte, %" if "perplexity" in known else "drop, points"
        yield f"### {self.source}, {self.task_name}: {task.test_examples:,} test examples\n"
        yield (
            f"| method | zeros lie | {metric}, pruned | {drops} | recovered from labels "
            f"| {drops} | from logits | {drops} | median error of a layer's outputs | parameters |"
        )
        yield "|---|---|---|---|---|---|---|---|---|---|"
        yield f"| none | | {known[metric]:.4g} | | | | | | | |"
        for way in ways():
            cells = []
            for recovery in RECOVERIES:
                if way.method == STRUCTURED and recovery == "labels":
                    cells += ["", ""]
                    continue
                artifact = self.build(way.recipe(recovery))
                scored = self.score(task, artifact)
                drop = task.drop(plain.examples, scored.examples)
                cells += [
                    f"{task.summary(scored.examples)[metric]:.4g}",
                    rf"{100 * drop.drop:.2f} \[{100 * drop.low:.2f}, {100 * drop.high:.2f}\]",
                ]
            errors = artifact.facts.get("reconstruction_error")
            told = f"{np.median(list(errors.values())):.3f}" if errors else "not measured"
            count = f"{artifact.facts['parameters']:,}"
            if "sparsity" in artifact.facts:
                zeros = artifact.facts["sparsity"] * artifact.facts["weights_share"]
                count += f", {zeros:.0%} of those of matrices zero"
            yield f"| {way.method} | {way.pattern} | {' | '.join(cells)} | {told} | {count} |"
        yield ""

    def speed(self) -> Iterator[str]:
        """Lines of the table of what became faster."""
        yield f"### {self.source}: how many times as fast as unpruned\n"
        decoder = self.source.startswith("decoder")
        sizes = SIZES | DECODE if decoder else SIZES
        yield "| build | runtime | batch x tokens | unpruned, ms | pruned, ms | speed-up |"
        yield "|---|---|---|---|---|---|"
        chosen = [w for w in ways() if w.method == STRUCTURED or w.pattern == "2:4"]
        for way in (w for w in chosen if w.method in (STRUCTURED, "sparsegpt")):
            for runtime, kind in KINDS.items():
                plain, pruned = (
                    self.build(Recipe(name="fp32"), kind),
                    self.build(way.recipe("logits"), kind),
                )
                for name, size in sizes.items():
                    yield self._compared(way, runtime, name, size, plain, pruned)
        yield ""

    def _compared(
        self,
        way: Way,
        runtime: str,
        name: str,
        size: dict[str, int],
        plain: Artifact,
        pruned: Artifact,
    ) -> str:
        pairs = [self._pair(runtime, size, plain, pruned) for _ in range(PAIRS)]
        logs = np.array([np.median(np.log(np.array(a) / np.array(b))) for a, b in pairs])
        low, middle, high = np.exp(between(logs))
        before, after = (np.median(np.concatenate([p[side] for p in pairs])) for side in (0, 1))
        return (
            f"| {way.method} {way.pattern} | {runtime} | {name} | {before:.3g} | {after:.3g} "
            rf"| {middle:.2f}x \[{low:.2f}, {high:.2f}\] |"
        )

    def _pair(
        self, runtime: str, size: dict[str, int], plain: Artifact, pruned: Artifact
    ) -> tuple[list[float], list[float]]:
        """Medians of a turn in milliseconds of two fresh processes, in the order of the rounds."""
        medians: tuple[list[float], list[float]] = ([], [])
        threads = self.options.threads
        with (
            Worker.start(runtime, log_dir=self.logs, threads=threads) as one,
            Worker.start(runtime, log_dir=self.logs, threads=threads) as other,
        ):
            turns: list[Callable[[], None]] = []
            for worker, artifact, found in zip((one, other), (plain, pruned), medians, strict=True):
                worker.open(artifact.folder, self.options)
                worker.prepare(artifact.signature.feeds(size))
                calls = max(3, int(SECONDS / (np.median(worker.sample(20).ns) / 1e9)))

                def turn(
                    worker: Worker = worker, calls: int = calls, found: list[float] = found
                ) -> None:
                    found.append(float(np.median(worker.sample(calls, unrecorded=3).ns)) / 1e6)

                turns.append(turn)
            for _ in range(ROUNDS):
                random.shuffle(turns)
                for turn in turns:
                    turn()
        return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", choices=MODELS, action="append", help="these only")
    parser.add_argument("--only", choices=("accuracy", "speed"), help="one of the two tables")
    asked = parser.parse_args()
    options = SessionOptions(threads=len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        print(f"{options.threads} threads, {time.strftime('%Y-%m-%d')}\n", flush=True)
        with Builder(Store.default(), logs / "builder.log", lambda text, done: None) as builder:
            for source in asked.model or MODELS:
                bench = Bench(source, builder, logs, options)
                if asked.only != "speed":
                    for line in bench.accuracy():
                        print(line, flush=True)
                if asked.only != "accuracy":
                    for line in bench.speed():
                        print(line, flush=True)


if __name__ == "__main__":
    main()
