"""A task's test split through a session, example by example, and paired with the reference."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from compile.errors import Incorrect
from compile.signature import Feeds
from suites.correctness import kl_divergence
from suites.measure.paired import paired_interval
from suites.workload import FittedTask

Examples = dict[str, np.ndarray]
"""Per-example results, each ``(examples,)``; what the task's ``score`` gives."""

BATCH = 32
"""Examples a call. Scores do not depend on it beyond rounding; speed and memory do."""


@dataclass(frozen=True)
class Scores:
    """One session's results on the test split."""

    examples: Examples
    logits: np.ndarray | None
    """``(examples, classes)`` float32 for a classifier, kept for the divergence; None for a
    language model, whose logits would be gigabytes."""


def score(
    task: FittedTask,
    run: Callable[[Feeds], Feeds],
    progress: Callable[[float], None] = lambda fraction: None,
) -> Scores:
    """Run the whole test split. Raises Incorrect for logits that are not finite."""
    parts: list[Examples] = []
    logits_kept: list[np.ndarray] = []
    seen, total = 0, task.task.test_examples
    for batch in task.test(BATCH):
        logits = next(iter(run(batch.feeds).values()))
        if not np.isfinite(logits).all():
            raise Incorrect(f"logits of test examples {seen}.. are not finite")
        logits = logits.astype(np.float32, copy=False)
        parts.append(task.task.score(logits, batch.labels))
        if logits.ndim == 2:
            logits_kept.append(logits)
        seen += len(logits)
        progress(seen / total)
    examples = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Scores(examples, np.concatenate(logits_kept) if logits_kept else None)


def columns(task: FittedTask, scores: Scores, reference: Scores) -> dict[str, Any]:
    """The row's columns: the task's metrics, and the drop against the reference with its
    intervals, paired by example."""
    mine = task.task.summary(scores.examples)
    theirs = task.task.summary(reference.examples)
    metric = task.task.metric
    row: dict[str, Any] = {
        "task": task.task.name,
        "metric": metric,
        "metric_value": mine[metric],
        "metric_reference": theirs[metric],
        "examples": len(scores.examples["correct"]),
        **{name: mine[name] for name in ("accuracy", "perplexity", "bits_per_byte") if name in mine},
    }
    drop = paired_interval(
        *(_share_correct(s.examples) for s in (reference, scores))
    )
    row |= {
        "accuracy_drop": drop.difference,
        "accuracy_drop_low": drop.low,
        "accuracy_drop_high": drop.high,
        "accuracy_drop_bound": drop.bound,
        "flips": int(np.sum(_share_correct(scores.examples) != _share_correct(reference.examples))),
    }
    if "predicted" in scores.examples:
        agree = scores.examples["predicted"] == reference.examples["predicted"]
        row["top1_agreement"] = float(agree.mean())
    if scores.logits is not None and reference.logits is not None:
        row["kl_divergence"] = float(kl_divergence(reference.logits, scores.logits).mean())
    return row


def stored_examples(scores: Scores, reference: Scores) -> dict[str, np.ndarray]:
    """The columns of ``examples.parquet``: this session's results beside the reference's."""
    table = dict(scores.examples)
    for name in ("predicted", "correct", "nll"):
        if name in reference.examples:
            table[f"reference_{name}"] = reference.examples[name]
    if scores.logits is not None and reference.logits is not None:
        table["kl_divergence"] = kl_divergence(reference.logits, scores.logits)
    return table


def _share_correct(examples: Examples) -> np.ndarray:
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

    def get(self, key: str) -> Scores | None:
        try:
            with np.load(self._root / f"{key}.npz", allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, BadZipFile, KeyError, EOFError):
            return None
        logits = arrays.pop("__logits__", None)
        return Scores(arrays, logits) if arrays else None

    def put(self, key: str, scores: Scores) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        arrays = dict(scores.examples)
        if scores.logits is not None:
            arrays["__logits__"] = scores.logits
        draft = self._root / f".{key}.{os.getpid()}.npz"
        try:
            np.savez_compressed(draft, **arrays)
            draft.replace(self._root / f"{key}.npz")
        finally:
            draft.unlink(missing_ok=True)

    @staticmethod
    def key(**parts: Mapping[str, Any] | str | int) -> str:
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]
