"""Classification: what is this text? Accuracy, one result for each example."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from tokenizers import Tokenizer

from compile.data import Batch
from compile.errors import InputError
from compile.signature import Feeds, Signature
from suites.tasks.corpus import Corpus, Split
from suites.tasks.examples import (
    SPLITS,
    Examples,
    exact_windows,
    ordered_batches,
    shuffled_batches,
    token_feeds,
)
from suites.tasks.feeds import fit_feeds
from suites.tasks.leakage import Shingles, unseen, words
from suites.tasks.scoring import Scores, cross_entropy, paired_resolution, prior_resolution
from suites.tasks.snippets import KINDS, snippets
from suites.tasks.tokenizer import Vocabulary

VERSION = 1
"""Raised whenever the same corpus would give other examples."""

SNIPPET_TOKENS = 64
"""Longest snippet with its special tokens; a longer one is cut into several at line ends."""
SNIPPET_WORDS = 12
"""Words and signs below which a snippet says too little."""
TEST_PER_CLASS = 800
USUAL_FLIPS = 0.02
"""Share of examples that become right or wrong under eight-bit quantization, as a rule."""


@dataclass(frozen=True)
class Classification:
    """A ``suites.tasks.task.Task``: labelled texts, one label each."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    splits: Mapping[Split, Examples]
    """Token ids with special tokens; the test split shortest first."""
    tokens: Vocabulary
    max_length: int = SNIPPET_TOKENS
    signature: Signature | None = None
    default_settings: Mapping[str, int | float] = field(
        default=MappingProxyType({"steps": 160, "batch_size": 64, "learning_rate": 1e-3})
    )
    metric = "accuracy"
    higher_is_better = True

    @property
    def vocabulary(self) -> int:
        return self.tokens.size

    @property
    def test_examples(self) -> int:
        return len(self.splits["test"])

    def for_signature(self, signature: Signature) -> Classification:
        return replace(self, signature=signature)

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        examples = self.splits["train"]
        for indices in shuffled_batches(examples.lengths, batch_size, seed):
            yield self._batch(examples, indices)

    def calibration(self, examples: int) -> Iterator[Feeds]:
        split = self.splits["calibration"]
        if examples > len(split):
            raise InputError(
                f"task {self.name!r} has {len(split)} examples to calibrate on; {examples} are asked"
            )
        for index in range(examples):
            yield self._batch(split, [index]).feeds

    def test(self, batch_size: int) -> Iterator[Batch]:
        examples = self.splits["test"]
        for indices in ordered_batches(len(examples), batch_size):
            yield self._batch(examples, indices)

    def score(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """``correct`` (bool), ``predicted``, ``label`` (int64) and ``nll`` (nats)."""
        nll, predicted = cross_entropy(logits, labels)
        return {
            "correct": predicted == labels,
            "predicted": predicted,
            "label": labels,
            "nll": nll,
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

    def workload_feeds(self, batch: int, sequence: int, seed: int) -> Feeds:
        rows = exact_windows(self.splits["test"].tokens, batch, sequence, seed)
        return self._fitted(token_feeds(list(rows), self.tokens.pad))

    def _batch(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> Batch:
        feeds = token_feeds([examples[i] for i in indices], self.tokens.pad)
        return Batch(self._fitted(feeds), examples.labels[np.asarray(indices)])

    def _fitted(self, feeds: Feeds) -> Feeds:
        return fit_feeds(feeds, self.signature) if self.signature else feeds


def snippet_splits(corpus: Corpus, tokenizer: Tokenizer) -> dict[Split, Examples]:
    """The embedded task's examples: snippets of the corpus, labelled by their kind.

    No text occurs twice in a split, and none of calibration or test was seen in train. The test
    split holds the same number of each class, as far as there are so many.
    """
    found = {split: _labelled_pieces(corpus, split, tokenizer) for split in SPLITS}
    train = Shingles(module.text for module in corpus.split("train"))
    chosen: dict[Split, list[tuple[str, int]]] = {}
    chosen["train"] = list(
        {" ".join(words(text)): (text, k) for text, k in found["train"]}.values()
    )
    for split in ("calibration", "test"):
        pieces = found[split]
        fresh = [pieces[i] for i in unseen([text for text, _ in pieces], train)]
        chosen[split] = sorted(fresh, key=lambda piece: hashlib.sha256(piece[0].encode()).digest())
    chosen["test"] = _capped(chosen["test"], TEST_PER_CLASS)
    return {
        split: labelled_examples(pieces, tokenizer, SNIPPET_TOKENS, shortest_first=split == "test")
        for split, pieces in chosen.items()
    }


def labelled_examples(
    pieces: Sequence[tuple[str, int]],
    tokenizer: Tokenizer,
    max_length: int,
    *,
    shortest_first: bool,
) -> Examples:
    """Texts and labels, tokenized with the tokenizer's special tokens and cut at a length."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(max_length)
    encodings = tokenizer.encode_batch([text for text, _ in pieces])
    rows = [(np.array(e.ids, np.int32), k) for e, (_, k) in zip(encodings, pieces, strict=True)]
    if shortest_first:
        rows.sort(key=lambda row: len(row[0]))
    return Examples.of([row for row, _ in rows], [label for _, label in rows])


def _labelled_pieces(corpus: Corpus, split: Split, tokenizer: Tokenizer) -> list[tuple[str, int]]:
    return [
        (piece, KINDS.index(snippet.kind))
        for module in corpus.split(split)
        for snippet in snippets(module.text)
        for piece in cut_at_lines(snippet.text, tokenizer, SNIPPET_TOKENS - 2)
        if len(words(piece)) >= SNIPPET_WORDS
    ]


def cut_at_lines(text: str, tokenizer: Tokenizer, limit: int) -> list[str]:
    """Consecutive pieces of at most ``limit`` tokens. A piece ends with a line where its second
    half has a line end, else after ``limit`` tokens."""
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    pieces = []
    start = 0
    while start < len(offsets):
        stop = min(start + limit, len(offsets))
        if stop < len(offsets):
            ends = range(stop, start + limit // 2, -1)
            stop = next((e for e in ends if "\n" in text[slice(*offsets[e - 1])]), stop)
        pieces.append(text[offsets[start][0] : offsets[stop - 1][1]])
        start = stop
    return pieces


def _capped(pieces: Sequence[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    counts: dict[int, int] = {}
    kept = []
    for text, label in pieces:
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= most:
            kept.append((text, label))
    return kept
