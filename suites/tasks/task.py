"""What a task is: real data, its labels, and a score for every example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from compile.data import Batch, DataSource
from compile.signature import Feeds, Signature
from suites.tasks.scoring import Scores


class Task(DataSource, Protocol):
    """Train and calibration splits (``DataSource``), a test split and a metric.

    All batches hold ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 ``(batch,
    sequence)``, until ``for_signature`` fits them to a model.
    """

    name: str
    metric: str
    """The key of ``summary`` that decides: ``accuracy`` or ``bits_per_byte``."""
    higher_is_better: bool
    classes: tuple[str, ...]
    """Names of the labels; empty where a label is a token."""
    vocabulary: int
    """Exclusive upper bound of the token ids."""
    max_length: int
    """Most tokens of an example, special ones included."""
    test_examples: int
    default_settings: Mapping[str, int | float]
    """Parameters of ``compile.training.TrainSettings`` that suit a small model on this task."""

    def test(self, batch_size: int) -> Iterator[Batch]:
        """All examples of the test split once, always in the same order, shortest first."""

    def score(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """Results of each example of a batch, ready to be concatenated with the others'."""

    def summary(self, examples: Scores) -> dict[str, float]:
        """The metrics over all examples."""

    def resolution(
        self,
        reference: Scores | None = None,
        candidate: Scores | None = None,
        confidence: float = 0.95,
    ) -> float:
        """How small a drop of ``metric`` a comparison on the same examples can resolve: the half
        width of its one-sided bound. Before anything is measured, from the number of test
        examples and a usual spread; with both results, from their paired differences."""

    def workload_feeds(self, batch: int, sequence: int, seed: int) -> Feeds:
        """Real tokens of the test split of exactly these sizes, without padding, for timing."""

    def for_signature(self, signature: Signature) -> Task:
        """The same task whose feeds have a model's inputs, in its order."""
