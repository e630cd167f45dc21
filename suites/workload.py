"""The inputs of a workload, and a task's data in the shape that a model takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from compile.data import Batch
from compile.errors import InputError
from compile.signature import Feeds, Signature
from suites.suite import Workload
from suites.tasks.task import Task


def workload_feeds(
    workload: Workload, signature: Signature, task: Task | None, examples: Feeds | None, seed: int
) -> Feeds:
    """The inputs of one timed call.

    Real tokens of the task's test split where there is one, the user's own examples where a
    factory gave them, synthetic inputs otherwise. A KV cache is synthetic in every case: its
    values do not change what is computed.
    """
    if workload.kind != "forward" and "past" not in signature.axes:
        raise InputError(
            f"a {workload.kind} workload needs a model with a KV cache; this one has the axes "
            f"{', '.join(sorted(signature.axes)) or 'none'}"
        )
    if workload.sequence is not None and "sequence" not in signature.axes:
        raise InputError("the model has no sequence axis; leave sequence out of the workload")
    if workload.sequence is None and workload.kind == "forward" and "sequence" in signature.axes:
        raise InputError("the model has a sequence axis; give the workload a sequence")
    feeds = signature.feeds(workload.sizes, seed)
    if task is not None and workload.sequence is not None:
        tokens = task.workload_feeds(workload.batch, workload.sequence, seed)
        feeds |= {name: array for name, array in tokens.items() if name in feeds}
    elif examples is not None:
        feeds |= {
            name: _tiled(example, workload.batch)
            for name, example in examples.items()
            if _batched(signature, name)
        }
    return feeds


def _batched(signature: Signature, name: str) -> bool:
    """Whether an input's first axis is the batch and no other axis varies."""
    shape = next(spec.shape for spec in signature.inputs if spec.name == name)
    return shape[:1] == ("batch",) and all(isinstance(axis, int) for axis in shape[1:])


def _tiled(example: np.ndarray, batch: int) -> np.ndarray:
    return np.resize(example, (batch, *example.shape[1:]))


def fit(feeds: Feeds, signature: Signature) -> Feeds:
    """A task's feeds as the model takes them: in its order, without what it does not know, and
    with what the task does not know (segments, an empty KV cache) filled in."""
    tokens = feeds["input_ids"]
    sizes = {"batch": tokens.shape[0], "sequence": tokens.shape[1], "past": 0}
    missing = [spec for spec in signature.inputs if spec.name not in feeds]
    neutral = Signature(
        tuple(
            type(spec)(spec.name, spec.dtype, spec.shape, spec.high, _neutral_fill(spec.name))
            for spec in missing
        ),
        (),
    ).feeds(sizes)
    return {
        spec.name: feeds[spec.name] if spec.name in feeds else neutral[spec.name]
        for spec in signature.inputs
    }


def _neutral_fill(name: str) -> str:
    return "ones" if name == "attention_mask" else "zeros"


@dataclass(frozen=True)
class FittedTask:
    """A task's splits for one model: the ``DataSource`` that passes calibrate and train on."""

    task: Task
    signature: Signature

    @property
    def fingerprint(self) -> str:
        return self.task.fingerprint

    def calibration(self, examples: int) -> Iterator[Feeds]:
        return (fit(feeds, self.signature) for feeds in self.task.calibration(examples))

    def training(self, batch_size: int, seed: int) -> Iterator[Batch]:
        for batch in self.task.training(batch_size, seed):
            yield Batch(fit(batch.feeds, self.signature), batch.labels)

    def test(self, batch_size: int) -> Iterator[Batch]:
        for batch in self.task.test(batch_size):
            yield Batch(fit(batch.feeds, self.signature), batch.labels)
