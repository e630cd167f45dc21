"""Inputs made from a model's signature, to calibrate on where there is no task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from compile.data import Batch
from compile.errors import InputError
from compile.signature import Feeds, Signature

LENGTHS = (16, 32, 64, 128)
"""Tokens of the inputs, in turn, where the model takes that many."""


class Synthetic:
    """A ``compile.data.DataSource`` without data. An activation's range over random inputs may be
    another than over real ones: what is calibrated on them is good for its speed and its size."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature

    @property
    def fingerprint(self) -> str:
        text = json.dumps(["synthetic", LENGTHS, self._signature.to_json()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def calibration_examples(self, most: int) -> int:
        return most

    def calibration(self, examples: int) -> Iterator[Feeds]:
        limit = self._signature.max_sequence or max(LENGTHS)
        for number in range(examples):
            sizes = dict.fromkeys(self._signature.axes, 1) | {"batch": 1, "past": 0}
            sizes.pop("total", None)
            if "sequence" in sizes:
                sizes["sequence"] = min(LENGTHS[number % len(LENGTHS)], limit)
            yield self._signature.feeds(sizes, seed=number)

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        raise InputError("nothing can be trained on synthetic inputs; give the model a task")
