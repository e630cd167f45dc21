"""A task's test split through a session, example by example, and paired with the reference."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from compile.errors import Incorrect
from compile.signature import Feeds
from runtimes import registry
from runtimes.likelihood import Answers
from suites.correctness import kl_divergence
from suites.measure.paired import paired_interval
from suites.sessions import LiveSession
from suites.tasks.scoring import Scores
from suites.tasks.task import Task

_METRICS = ("accuracy", "perplexity", "bits_per_byte")

BATCH = 32
"""Examples a call. Scores hardly depend on it: by rounding, and in int8-dynamic builds by the range
of a batch's activations."""


@dataclass(frozen=True)
class Scored:
    """One session's results on the test split."""

    examples: Scores
    logits: np.ndarray | None
    """``(examples, classes)`` float32 for a classifier, kept for the divergence; None for a
    language model, whose logits would be gigabytes."""


def score(
    task: Task,
    answer: Callable[[Feeds, np.ndarray], Answers],
    *,
    one_shape: bool = False,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Scored:
    """Ask the whole test split of a session. Raises Incorrect for logits that are not finite.

    ``one_shape`` pads all batches to one size, for runtimes that compile a program for each
    shape that they meet; others are given the batches as short as they are.
    """
    parts: list[Scores] = []
    logits_kept: list[np.ndarray] = []
    seen, total = 0, task.test_examples
    for batch in task.test(BATCH):
        rows, columns = batch.feeds["input_ids"].shape
        feeds = batch.feeds
        if one_shape:
            feeds = _padded(feeds, BATCH, max(columns, task.max_length))
        try:
            answers = answer(feeds, batch.labels)
        except Incorrect as error:
            raise Incorrect(f"test examples {seen}..{seen + rows - 1}: {error}") from error
        parts.append(task.score(answers, batch.labels))
        if answers.logits is not None:
            logits_kept.append(answers.logits)
        seen += rows
        progress(seen / total)
    examples = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Scored(examples, np.concatenate(logits_kept) if logits_kept else None)


def _padded(feeds: Feeds, rows: int, columns: int) -> Feeds:
    """The feeds padded to a size: columns are masked, rows repeat the last one."""
    length = feeds["input_ids"].shape[1]
    padded = {}
    for name, array in feeds.items():
        if array.ndim == 2 and array.shape[1] == length:
            array = np.pad(array, ((0, 0), (0, columns - length)))
        padded[name] = np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
    return padded


def columns(task: Task, scores: Scored, reference: Scored) -> dict[str, Any]:
    """The row's columns: the task's metrics, and the drop against the reference with its
    intervals, paired by example."""
    mine = task.summary(scores.examples)
    theirs = task.summary(reference.examples)
    metric = task.metric
    row: dict[str, Any] = {
        "task": task.name,
        "metric": metric,
        "metric_value": mine[metric],
        "metric_reference": theirs[metric],
        "examples": len(scores.examples["correct"]),
        **{name: mine[name] for name in _METRICS if name in mine},
    }
    drop = paired_interval(_share_correct(reference.examples), _share_correct(scores.examples))
    row |= {
        "accuracy_drop": drop.drop,
        "accuracy_drop_low": drop.low,
        "accuracy_drop_high": drop.high,
        "accuracy_drop_bound": drop.upper,
        "flips": drop.lost + drop.gained,
    }
    if "predicted" in scores.examples:
        agree = scores.examples["predicted"] == reference.examples["predicted"]
        row["top1_agreement"] = float(agree.mean())
    if scores.logits is not None and reference.logits is not None:
        row["kl_divergence"] = float(kl_divergence(reference.logits, scores.logits).mean())
    return row


def stored_examples(scores: Scored, reference: Scored) -> dict[str, np.ndarray]:
    """The columns of ``examples.parquet``: this session's results beside the reference's."""
    table = dict(scores.examples)
    for name in ("predicted", "correct", "nll"):
        if name in reference.examples:
            table[f"reference_{name}"] = reference.examples[name]
    if scores.logits is not None and reference.logits is not None:
        table["kl_divergence"] = kl_divergence(reference.logits, scores.logits)
    return table


def _share_correct(examples: Scores) -> np.ndarray:
    """Right or wrong for a classifier; the share of right tokens for a sequence of them."""
    if "tokens" in examples:
        return examples["correct"] / np.maximum(examples["tokens"], 1)
    return examples["correct"].astype(bool)


class ScoreCache:
    """Scores by what decides them: the artifact, the runtime with its versions and options, the
    data. They are deterministic, so that a second run need not compute them again; times never
    are, and are never kept."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> Scored | None:
        try:
            with np.load(self._root / f"{key}.npz", allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, BadZipFile, KeyError, EOFError):
            return None
        logits = arrays.pop("__logits__", None)
        return Scored(arrays, logits) if arrays else None

    def put(self, key: str, scores: Scored) -> None:
        arrays = dict(scores.examples)
        if scores.logits is not None:
            arrays["__logits__"] = scores.logits
        draft = self._root / f".{key}.{os.getpid()}.npz"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(draft, allow_pickle=False, **arrays)
            draft.replace(self._root / f"{key}.npz")
        except OSError:
            return  # A full disk costs the next run some seconds, and must not end this one.
        finally:
            draft.unlink(missing_ok=True)

    @staticmethod
    def key(**parts: Mapping[str, Any] | str | int) -> str:
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Scorer:
    """Scores sessions on a task's test split, each (artifact, runtime, options) once."""

    def __init__(
        self, task: Task | None, cache: ScoreCache, progress: Callable[[str, float], None]
    ) -> None:
        self._task = task
        self._cache = cache
        self._progress = progress

    def score(self, session: LiveSession) -> Scored | None:
        """The session's scores; None without a task. Raises what the worker raises, and
        Incorrect for logits that are not finite."""
        if self._task is None:
            return None
        worker = session.worker
        key = ScoreCache.key(
            artifact=session.artifact.key,
            task=self._task.fingerprint,
            runtime=session.key.runtime,
            options=asdict(session.options),
            versions=session.versions,
            machine=platform.processor() or platform.machine(),
        )
        scored = self._cache.get(key)
        if scored is None:
            task = self._task.for_signature(session.artifact.signature)
            label = f"scoring {session.key.label}"
            scored = score(
                task,
                worker.answer,
                one_shape=registry.entry(session.key.runtime).compiles_shapes,
                progress=lambda done: self._progress(label, done),
            )
            self._cache.put(key, scored)
        return scored
