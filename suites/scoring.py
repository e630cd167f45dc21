"""A task's test split through a session, example by example, and paired with the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from compile.errors import Incorrect
from compile.signature import Feeds
from runtimes.likelihood import Answers
from suites.correctness import kl_divergence
from suites.tasks.scoring import Scores
from suites.tasks.task import Task

_METRICS = ("accuracy", "perplexity", "bits_per_byte")

VERSION = 1
"""Raised whenever the same logits would give other scores, or the same examples other logits."""

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
    drop = task.drop(reference.examples, scores.examples)
    # The reference itself has been compared with nothing: that it is as good as it is, is known.
    known = scores is reference
    row |= {
        "accuracy_drop": drop.drop,
        "accuracy_drop_low": 0.0 if known else drop.low,
        "accuracy_drop_high": 0.0 if known else drop.high,
        "accuracy_drop_bound": 0.0 if known else drop.upper,
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
