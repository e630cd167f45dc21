"""Classification: what is this text? Accuracy, one result for each example."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compile.artifact import Artifact
from compile.data import Batch
from compile.errors import InputError
from runtimes.likelihood import Answers
from suites.measure.paired import PairedDrop, paired_interval
from suites.tasks.classes import classes_of
from suites.tasks.examples import Examples
from suites.tasks.scoring import USUAL_FLIPS, Scores
from suites.tasks.task import Task


@dataclass(frozen=True)
class Classification(Task):
    """Texts with one label each. ``for_artifact`` says which class of the model that is."""

    kind = "classification"
    metric = "accuracy"
    higher_is_better = True

    listed: tuple[str, ...] = ()
    """The user's names of the labels in the order of a model's classes."""
    class_of: tuple[int, ...] = ()
    """The model's class of each of the data's labels; empty before there is a model."""

    @property
    def fingerprint(self) -> str:
        if not self.listed:
            return super().fingerprint
        return hashlib.sha256(json.dumps([super().fingerprint, self.listed]).encode()).hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.listed or self.data.labels

    def for_artifact(self, artifact: Artifact) -> Classification:
        fitted = super().for_artifact(artifact)
        shape = artifact.signature.outputs[0].shape
        count = shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None
        try:
            classes = classes_of(self.data.labels, artifact.labels, self.listed, count)
        except InputError as error:
            raise InputError(f"task {self.name!r}: {error}") from error
        return replace(fitted, class_of=classes)

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

    @staticmethod
    def drop(reference: Scores, candidate: Scores, confidence: float = 0.95) -> PairedDrop:
        return paired_interval(reference["correct"], candidate["correct"], confidence)

    def _batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        feeds = self._tokens([examples[i] for i in indices])
        labels = examples.labels[np.asarray(indices)]
        if self.class_of:
            labels = np.array(self.class_of, np.int64)[labels]
        return self._fitted(feeds, labels)
