"""Data handed down from the suites: what a step may calibrate and train on.

The rooms below never reach up for data. They are given an object of this shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from compile.signature import Feeds, Signature

IGNORED = -100
"""A label that has no influence on loss or score (padding, unmasked tokens)."""


class Batch(NamedTuple):
    """Inputs and what the model should have answered."""

    feeds: Feeds
    labels: np.ndarray
    """int64. ``(batch,)`` classes, or ``(batch, sequence)`` tokens already aligned with the
    logits of the same position; ``IGNORED`` where nothing is asked."""


class DataSource(Protocol):
    """A task's train and calibration splits. Every objective that Assay trains on is the cross
    entropy of ``logits`` with shape ``labels.shape + (classes,)``, so no other is needed here."""

    @property
    def fingerprint(self) -> str:
        """Hash of the data, its splits and its preparation."""

    def calibration_examples(self, most: int) -> int:
        """How many examples the calibration split can give, of the ``most`` that are wanted."""

    def calibration(self, examples: int) -> Iterator[Feeds]:
        """That many examples of the calibration split, no more than there are, one at a time
        (batch 1, natural length), always the same ones."""

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Endless shuffled batches of the train split."""


def fitted(data: DataSource, signature: Signature) -> DataSource:
    """The same data for a model of this signature: a decoder's caches, which data leave empty, get
    its own shapes."""
    caches = any("past" in spec.shape for spec in signature.inputs)
    return _Fitted(data, signature) if caches else data


def with_empty_caches(feeds: Feeds, signature: Signature) -> Feeds:
    """The signature's inputs in its order, every one with an axis ``past`` made anew and empty."""
    batch = len(next(iter(feeds.values())))

    def empty(axis: str | int) -> int:
        return axis if isinstance(axis, int) else {"batch": batch, "past": 0}[axis]

    return {
        spec.name: np.zeros([empty(axis) for axis in spec.shape], spec.dtype)
        if "past" in spec.shape
        else feeds[spec.name]
        for spec in signature.inputs
    }


@dataclass(frozen=True)
class _Fitted:
    data: DataSource
    signature: Signature

    @property
    def fingerprint(self) -> str:
        # A step's key holds its input's key beside this, and with it the shapes.
        return self.data.fingerprint

    def calibration_examples(self, most: int) -> int:
        return self.data.calibration_examples(most)

    def calibration(self, examples: int) -> Iterator[Feeds]:
        for feeds in self.data.calibration(examples):
            yield with_empty_caches(feeds, self.signature)

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        for batch in self.data.training(batch_size, seed):
            yield Batch(with_empty_caches(batch.feeds, self.signature), batch.labels)
