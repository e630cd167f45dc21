"""Classification: what is this text? Accuracy, one result for each example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compile.data import Batch
from runtimes.likelihood import Answers
from suites.measure.paired import PairedDrop, paired_interval
from suites.tasks.examples import Examples
from suites.tasks.scoring import USUAL_FLIPS, Scores
from suites.tasks.task import Task


@dataclass(frozen=True)
class Classification(Task):
    """Texts with one label each."""

    kind = "classification"
    metric = "accuracy"
    higher_is_better = True

    def score(self, answers: Answers, labels: np.ndarray) -> Scores:
        """``correct`` (bool), ``predicted``, ``label`` (int64) and ``nll`` (float64, nats)."""
        return {
            "correct": answers.predicted == labels,
            "predicted": answers.predicted,
            "label": labels,
            "nll": answers.nll,
        }

    def summary(self, examples: Scores) -> dict[str, float]:
        """``accuracy`` (share of right answers) and ``nll`` (mean, nats)."""
        return {
            "accuracy": float(np.mean(examples["correct"])),
            "nll": float(np.mean(examples["nll"])),
        }

    def _usual_spread(self) -> tuple[int, float]:
        return self.test_examples, math.sqrt(USUAL_FLIPS)

    def drop(self, reference: Scores, candidate: Scores, confidence: float = 0.95) -> PairedDrop:
        return paired_interval(reference["correct"], candidate["correct"], confidence)

    def _batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        feeds = self._tokens([examples[i] for i in indices])
        return self._fitted(feeds, examples.labels[np.asarray(indices)])
