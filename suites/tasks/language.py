"""Language modelling: which token comes next, and which was masked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compile.data import IGNORED, Batch
from runtimes.likelihood import Answers
from suites.measure.paired import PairedDrop, weighted_interval
from suites.tasks.examples import Examples
from suites.tasks.scoring import USUAL_FLIPS, Scores
from suites.tasks.task import Task

MASKED_SHARE = 0.15
MASKED_IN_TRAINING = 0.4
"""More than is asked in a test: a small model learns faster from more questions a window (Wettig
et al. 2023)."""
USUAL_SPREAD = 0.02
"""Standard deviation over sequences of a build's change in bits per byte, as a rule."""


@dataclass(frozen=True)
class CausalLM(Task):
    """Every token of a window from those before it; the first one from the begin token."""

    kind = "causal-lm"
    metric = "bits_per_byte"
    higher_is_better = False

    def score(self, answers: Answers, labels: np.ndarray) -> Scores:
        """For each sequence: ``tokens`` asked, ``correct`` ones, ``nll`` (sum, nats) and the
        ``bytes`` of text that the asked tokens stand for."""
        asked = labels != IGNORED
        sizes = np.where(asked, self.data.token_bytes[np.where(asked, labels, 0)], 0)
        return _sequence_scores(answers, labels) | {"bytes": sizes.sum(axis=1)}

    def summary(self, examples: Scores) -> dict[str, float]:
        """``bits_per_byte`` = nll / ln 2 / bytes, which does not depend on the tokenizer;
        ``perplexity`` = exp(nll / tokens), which does; ``accuracy``, the share of tokens that
        were the likeliest."""
        nll, tokens = float(examples["nll"].sum()), int(examples["tokens"].sum())
        return {
            "bits_per_byte": nll / math.log(2) / float(examples["bytes"].sum()),
            "perplexity": math.exp(min(nll / tokens, 700.0)),
            "accuracy": float(examples["correct"].sum()) / tokens,
        }

    def _usual_spread(self) -> tuple[int, float]:
        return self.test_examples, USUAL_SPREAD

    @staticmethod
    def drop(reference: Scores, candidate: Scores, confidence: float = 0.95) -> PairedDrop:
        # The bytes are the same on both sides: nats rise as bits per byte do.
        rise = candidate["nll"] - reference["nll"]
        return weighted_interval(rise, reference["nll"], confidence)

    def _batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        """A stored row is one longer than the input: position ``i`` is asked for token ``i+1``."""
        rows = [examples[i] for i in indices]
        feeds = self._tokens([row[:-1] for row in rows])
        labels = np.full(feeds["input_ids"].shape, IGNORED, np.int64)
        for index, row in enumerate(rows):
            labels[index, : len(row) - 1] = row[1:]
        return self._fitted(feeds, labels)


@dataclass(frozen=True)
class MaskedLM(Task):
    """15 % of the tokens of a window from the others (Devlin et al. 2018).

    A test masks each chosen token; which are chosen follows from the example's place alone.
    In training 40 % are chosen; 80 % of them are masked, 10 % replaced at random and 10 % left.
    """

    kind = "masked-lm"
    metric = "accuracy"
    higher_is_better = True

    def score(self, answers: Answers, labels: np.ndarray) -> Scores:
        """For each sequence: ``tokens`` asked, ``correct`` ones and ``nll`` (sum, nats)."""
        return _sequence_scores(answers, labels)

    def summary(self, examples: Scores) -> dict[str, float]:
        """``accuracy``, the share of masked tokens that were found; ``perplexity`` of those
        tokens = exp(nll / tokens)."""
        tokens = int(examples["tokens"].sum())
        return {
            "accuracy": float(examples["correct"].sum()) / tokens,
            "perplexity": math.exp(min(float(examples["nll"].sum()) / tokens, 700.0)),
        }

    def _usual_spread(self) -> tuple[int, float]:
        tokens = MASKED_SHARE * len(self.data.splits["test"].tokens)
        return int(tokens), math.sqrt(USUAL_FLIPS)

    @staticmethod
    def drop(reference: Scores, candidate: Scores, confidence: float = 0.95) -> PairedDrop:
        lost = reference["correct"].astype(float) - candidate["correct"]
        return weighted_interval(lost, reference["tokens"].astype(float), confidence)

    def _batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        feeds = self._tokens([examples[i] for i in indices])
        ids = feeds["input_ids"]
        labels = np.full(ids.shape, IGNORED, np.int64)
        maskable = self._maskable(feeds["attention_mask"], ids)
        for row, index in enumerate(indices):
            places = np.flatnonzero(maskable[row])
            order = np.random.default_rng(int(index)).random(len(places)).argsort()
            chosen = places[order[: max(1, round(MASKED_SHARE * len(places)))]]
            labels[row, chosen] = ids[row, chosen]
            ids[row, chosen] = self.data.vocabulary.mask
        return self._fitted(feeds, labels)

    def _train_batch(
        self, examples: Examples, indices: np.ndarray, random: np.random.Generator
    ) -> Batch:
        feeds = self._tokens([examples[i] for i in indices])
        ids = feeds["input_ids"]
        maskable = self._maskable(feeds["attention_mask"], ids)
        chosen = maskable & (random.random(ids.shape) < MASKED_IN_TRAINING)
        if not chosen.any():
            chosen.flat[np.flatnonzero(maskable)[0]] = True
        labels = np.where(chosen, ids, IGNORED)
        fate = random.random(ids.shape)
        ids[chosen & (fate < 0.8)] = self.data.vocabulary.mask
        replaced = chosen & (fate >= 0.8) & (fate < 0.9)
        ids[replaced] = random.integers(0, self.vocabulary, int(replaced.sum()))
        return self._fitted(feeds, labels)

    def _maskable(self, mask: np.ndarray, ids: np.ndarray) -> np.ndarray:
        return (mask == 1) & ~np.isin(ids, self.data.vocabulary.special)


def _sequence_scores(answers: Answers, labels: np.ndarray) -> Scores:
    asked = labels != IGNORED
    return {
        "tokens": asked.sum(axis=1),
        "correct": (asked & (answers.predicted == labels)).sum(axis=1),
        "nll": answers.nll.sum(axis=1),
    }
