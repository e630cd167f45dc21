"""What a task is: real data, its labels, and a score for every example."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from compile.data import Batch
from compile.errors import InputError
from compile.models import zoo
from compile.models.config import TASKS
from compile.signature import Feeds
from compile.train_settings import TrainSettings
from suites.tasks.examples import (
    Examples,
    exact_windows,
    ordered_batches,
    shuffled_batches,
    token_feeds,
)
from suites.tasks.prepared import Prepared
from suites.tasks.scoring import Scores

Kind = Literal["classification", "masked-lm", "causal-lm"]


@dataclass(frozen=True)
class Task(ABC):
    """Train and calibration splits (a ``compile.data.DataSource``), a test split and a metric.

    All feeds are ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``position_ids``,
    int64 ``(batch, sequence)``, padded on the right; a model takes those that it knows.
    """

    kind: ClassVar[Kind]
    metric: ClassVar[str]
    """The key of ``summary`` that decides."""
    higher_is_better: ClassVar[bool]

    name: str
    data: Prepared
    settings: TrainSettings
    """What trains a small model of the zoo on this task in about a minute on two cores."""

    @property
    def fingerprint(self) -> str:
        """Hash of the task, its data, the splits and their preparation."""
        return hashlib.sha256(f"{self.kind} {self.data.fingerprint}".encode()).hexdigest()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; empty where a label is a token."""
        return self.data.labels

    @property
    def classes(self) -> int | None:
        """How many a classifier has to tell apart; None where a label is a token."""
        return len(self.data.labels) or None

    @property
    def vocabulary(self) -> int:
        """Exclusive upper bound of the token ids."""
        return self.data.vocabulary.size

    @property
    def max_length(self) -> int:
        """Most tokens of an example, special ones included."""
        return self.data.max_length

    @property
    def test_examples(self) -> int:
        return len(self.data.splits["test"])

    def trains(self, model: str) -> bool:
        """Whether that model is one of the zoo's that are made to be trained here."""
        entry = zoo.ZOO.get(model)
        return entry is not None and entry.trained and TASKS[self.kind] in entry.tasks

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Endless shuffled batches of the train split."""
        examples = self.data.splits["train"]
        random = np.random.default_rng([seed, 1])
        for indices in shuffled_batches(examples.lengths, batch_size, seed):
            yield self._train_batch(examples, indices, random)

    def calibration(self, examples: int) -> Iterator[Feeds]:
        """The first examples of the calibration split, one at a time, as the test split would
        ask them."""
        split = self.data.splits["calibration"]
        if examples > len(split):
            raise InputError(
                f"task {self.name!r} has {len(split)} examples to calibrate on, "
                f"fewer than the {examples} that are asked for"
            )
        for index in range(examples):
            yield self._batch(split, [index]).feeds

    def test(self, batch_size: int) -> Iterator[Batch]:
        """All examples of the test split once, always in the same order, shortest first."""
        examples = self.data.splits["test"]
        for indices in ordered_batches(len(examples), batch_size):
            yield self._batch(examples, indices)

    def workload_feeds(self, batch: int, sequence: int, seed: int) -> Feeds:
        """Real tokens of the test split of exactly these sizes, without padding, for timing."""
        rows = exact_windows(self.data.splits["test"].tokens, batch, sequence, seed)
        return self._feeds(list(rows))

    @abstractmethod
    def score(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """Results of each example of a batch, ready to be concatenated with the others'."""

    @abstractmethod
    def summary(self, examples: Scores) -> dict[str, float]:
        """The metrics over all examples."""

    @abstractmethod
    def resolution(
        self,
        reference: Scores | None = None,
        candidate: Scores | None = None,
        confidence: float = 0.95,
    ) -> float:
        """How small a drop of ``metric`` a comparison on the same examples can resolve: the half
        width of its one-sided bound. Before anything is measured, from the number of test
        examples and a usual spread; with both results, from their paired differences."""

    @abstractmethod
    def _batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        """What is asked of these examples in a test: the same whatever the batch's size."""

    def _train_batch(
        self, examples: Examples, indices: np.ndarray, random: np.random.Generator
    ) -> Batch:
        return self._batch(examples, indices)

    def _feeds(self, rows: Sequence[np.ndarray]) -> Feeds:
        return token_feeds(rows, self.data.vocabulary.pad)
