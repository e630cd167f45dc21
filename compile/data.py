"""Data handed down from the suites: what a step may calibrate and train on.

The rooms below never reach up for data. They are given an object of this shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from compile.signature import Feeds

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
