"""What a task is: real data, its labels, and a score for every example."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from compile.artifact import Artifact
from compile.data import Batch
from compile.errors import InputError
from compile.signature import Feeds, Signature
from runtimes.likelihood import Answers
from suites.measure.paired import PairedDrop
from suites.tasks.examples import (
    Examples,
    exact_windows,
    ordered_batches,
    shuffled_batches,
    token_feeds,
)
from suites.tasks.feeds import fit_feeds
from suites.tasks.prepared import Prepared
from suites.tasks.scoring import Scores, prior_resolution

Kind = Literal["classification", "masked-lm", "causal-lm"]


@dataclass(frozen=True)
class Task(ABC):
    """Train and calibration splits (a ``compile.data.DataSource``), a test split and a metric.

    All feeds are ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``position_ids``,
    int64 ``(batch, sequence)``, padded on the right, until ``for_signature`` fits them to a model.
    """

    kind: ClassVar[Kind]
    metric: ClassVar[str]
    """The key of ``summary`` that decides."""
    higher_is_better: ClassVar[bool]

    name: str
    data: Prepared
    default_settings: Mapping[str, Any]
    """Parameters of ``compile.training.TrainSettings`` that train a small model of the zoo on
    this task in about a minute on two cores."""
    models_tokens: bool = False
    """Whether the tokens are known to be the model's: of the tokenizer that came with it, or that
    the user named."""
    signature: Signature | None = None
    """The model that the feeds are fitted to."""

    @property
    def fingerprint(self) -> str:
        """Hash of the task, its data, the splits and their preparation."""
        return hashlib.sha256(f"{self.kind} {self.data.fingerprint}".encode()).hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that a model trained on this tells apart; empty where a label is a
        token."""
        return self.data.labels

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

    def for_artifact(self, artifact: Artifact) -> Self:
        """The same task whose batches have a model's inputs, its tokens and its classes.

        Raises InputError as ``for_signature`` does, and where the tokenizer or the data's labels
        are not the model's.
        """
        self._check_vocabulary(artifact)
        return self.for_signature(artifact.signature)

    def for_signature(self, signature: Signature) -> Self:
        """The same task whose batches have a model's inputs, in its order.

        Raises InputError where the model takes what text cannot feed, or cannot take a whole
        example.
        """
        longest = signature.max_sequence
        if longest is not None and longest < self.max_length:
            raise InputError(
                f"the examples of task {self.name!r} have up to {self.max_length} tokens; the "
                f"model takes {longest}"
            )
        fit_feeds(self._tokens([np.zeros(1, np.int32)]), signature)
        return replace(self, signature=signature)

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Endless shuffled batches of the train split."""
        examples = self.data.splits["train"]
        random = np.random.default_rng([seed, 1])
        for indices in shuffled_batches(examples.lengths, batch_size, seed):
            yield self._train_batch(examples, indices, random)

    def calibration_examples(self, most: int) -> int:
        """How many examples the calibration split can give, of the ``most`` that are wanted."""
        return min(most, len(self.data.splits["calibration"]))

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
        """Real tokens of the test split of exactly these sizes, without padding, for timing.
        These are not fitted: what else a workload feeds (a filled KV cache) it knows itself."""
        rows = exact_windows(self.data.splits["test"].tokens, batch, sequence, seed)
        return self._tokens(list(rows))

    @abstractmethod
    def score(self, answers: Answers, labels: np.ndarray) -> Scores:
        """Results of each example of a batch, ready to be concatenated with the others'."""

    @abstractmethod
    def summary(self, examples: Scores) -> dict[str, float]:
        """The metrics over all examples."""

    def resolution(
        self,
        reference: Scores | None = None,
        candidate: Scores | None = None,
        confidence: float = 0.95,
    ) -> float:
        """How small a drop a comparison on the same examples can resolve: how far its one-sided
        bound lies beside it. Before anything is measured, from the number of test examples and a
        usual spread; with both results, from their paired differences."""
        if reference is None or candidate is None:
            return prior_resolution(*self._usual_spread(), confidence)
        found = self.drop(reference, candidate, confidence)
        return found.upper - found.drop

    @staticmethod
    @abstractmethod
    def drop(reference: Scores, candidate: Scores, confidence: float = 0.95) -> PairedDrop:
        """How much worse the candidate is than the reference on the same examples, as a fraction:
        of accuracy, its difference; of bits per byte, its rise relative to the reference's."""

    @abstractmethod
    def _usual_spread(self) -> tuple[int, float]:
        """How many results ``metric`` is over, and the usual standard deviation of their paired
        differences."""

    @abstractmethod
    def _batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        """What is asked of these examples in a test: the same whatever the batch's size."""

    def _train_batch(
        self, examples: Examples, indices: np.ndarray, random: np.random.Generator
    ) -> Batch:
        return self._batch(examples, indices)

    def _check_vocabulary(self, artifact: Artifact) -> None:
        specs = [s for s in artifact.signature.inputs if s.name == "input_ids"]
        if not specs:
            return
        family = artifact.lineage[0].parameters.get("family") if artifact.lineage else None
        takes, own = specs[0].high, family == "transformer"
        if not self.models_tokens and not own and takes != self.vocabulary:
            raise InputError(
                f"task {self.name!r} has the embedded tokenizer of {self.vocabulary:,} tokens, and "
                f"the model takes {'an unknown number' if takes is None else f'{takes:,}'}: name "
                'the model\'s in a [tasks] table, tokenizer = "path/to/tokenizer.json", or '
                '"embedded" if the model was made for this one'
            )
        # What a function's model takes is told by its example inputs alone, which is too little.
        if takes is not None and family != "user" and self.vocabulary > takes:
            raise InputError(
                f"the tokenizer of task {self.name!r} has {self.vocabulary:,} tokens, more than "
                f"the {takes:,} that the model takes; name the model's own, tokenizer = "
                '"path/to/tokenizer.json"'
            )

    def _tokens(self, rows: Sequence[np.ndarray]) -> Feeds:
        return token_feeds(rows, self.data.vocabulary.pad)

    def _fitted(self, feeds: Feeds, labels: np.ndarray) -> Batch:
        return Batch(fit_feeds(feeds, self.signature) if self.signature else feeds, labels)
