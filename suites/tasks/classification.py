"""Classification: what is this text? Accuracy, one result for each example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compile.data import Batch
from runtimes.likelihood import Answers
from suites.tasks.examples import Examples
from suites.tasks.scoring import Scores, paired_resolution, prior_resolution
from suites.tasks.task import Task

USUAL_FLIPS = 0.02
"""Share of examples that become right or wrong under eight-bit quantization, as a rule."""


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

    def resolution(
        self,
        reference: Scores | None = None,
        candidate: Scores | None = None,
        confidence: float = 0.95,
    ) -> float:
        if reference is None or candidate is None:
            return prior_resolution(self.test_examples, math.sqrt(USUAL_FLIPS), confidence)
        drop = reference["correct"].astype(float) - candidate["correct"].astype(float)
        return paired_resolution(drop, np.ones(len(drop)), confidence)

    def _batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        feeds = self._tokens([examples[i] for i in indices])
        return self._fitted(feeds, examples.labels[np.asarray(indices)])
