"""Tokenized examples of different lengths: how they are kept, padded and put into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compile.signature import Feeds
from suites.tasks.corpus import Split

SPLITS: tuple[Split, ...] = ("train", "calibration", "test")
_BUCKET = 16
"""Batches whose examples are sorted by length together, against padding."""


@dataclass(frozen=True)
class Examples:
    """A ragged array of token ids: example ``i`` is ``tokens[ends[i - 1] : ends[i]]``."""

    tokens: np.ndarray
    """int32, all examples one after the other."""
    ends: np.ndarray
    """int64 ``(examples,)``."""
    labels: np.ndarray
    """int64 ``(examples,)`` classes; zeros where the tokens themselves are asked."""

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], labels: Sequence[int] | None = None) -> Examples:
        tokens = np.concatenate(rows) if rows else np.empty(0)
        return cls(
            tokens=tokens.astype(np.int32),
            ends=np.cumsum([len(row) for row in rows], dtype=np.int64),
            labels=np.array(labels if labels is not None else [0] * len(rows), np.int64),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tokens[self.ends[index - 1] if index else 0 : self.ends[index]]

    def shortest_first(self) -> Examples:
        """The same examples in the order of their lengths, so that batches need little padding."""
        order = np.argsort(self.lengths, kind="stable")
        return Examples.of([self[i] for i in order], self.labels[order].tolist())

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)


def token_feeds(rows: Sequence[np.ndarray], pad: int) -> Feeds:
    """``input_ids`` padded on the right to the longest row, ``attention_mask`` with 1 where there
    is a token, ``token_type_ids`` of zeros and ``position_ids`` that count: int64 ``(batch,
    sequence)`` each."""
    shape = (len(rows), max(len(row) for row in rows))
    ids = np.full(shape, pad, np.int64)
    mask = np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": np.zeros(shape, np.int64),
        "position_ids": np.tile(np.arange(shape[1]), (shape[0], 1)),
    }


def shuffled_batches(lengths: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of endless shuffled batches, every epoch in another order.

    Within each run of sixteen batches the examples are sorted by length, so that a batch's
    examples are about equally long and little of it is padding. What does not fill a batch at
    an epoch's end is left out of that epoch.
    """
    size = min(batch_size, len(lengths))
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(lengths))
        order = order[: len(order) // size * size]
        for start in range(0, len(order), size * _BUCKET):
            bucket = order[start : start + size * _BUCKET]
            bucket = bucket[np.argsort(lengths[bucket], kind="stable")].reshape(-1, size)
            yield from bucket[random.permutation(len(bucket))]


def ordered_batches(count: int, batch_size: int) -> Iterator[range]:
    """Indices of all examples once, in their order."""
    for start in range(0, count, batch_size):
        yield range(start, min(start + batch_size, count))


def exact_windows(stream: np.ndarray, batch: int, sequence: int, seed: int) -> np.ndarray:
    """``(batch, sequence)`` runs of a stream of real tokens, from places that the seed decides.
    The stream is repeated where the sequence is longer than it."""
    if len(stream) < sequence:
        stream = np.tile(stream, -(-sequence // max(len(stream), 1)))
    starts = np.random.default_rng(seed).integers(0, len(stream) - sequence + 1, batch)
    return np.stack([stream[start : start + sequence] for start in starts]).astype(np.int64)
