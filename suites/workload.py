"""The inputs of one timed call."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compile.errors import InputError
from compile.signature import Feeds, Signature
from suites.suite_file import Workload
from suites.tasks.task import Task


def workload_feeds(
    workload: Workload, signature: Signature, task: Task | None, examples: Feeds | None, seed: int
) -> Feeds:
    """What a workload feeds to a model of this signature.

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
    _check_batch(workload.batch, signature)
    feeds = signature.feeds(workload.sizes, seed)
    if task is not None and workload.sequence is not None:
        tokens = task.workload_feeds(workload.batch, workload.sequence, seed)
        # What is not random is right already, and knows of a cache's tokens what a text does not.
        feeds |= {
            spec.name: tokens[spec.name].astype(spec.dtype)
            for spec in signature.inputs
            if spec.fill == "random" and spec.name in tokens
        }
    elif examples is not None:
        feeds |= {
            name: _tiled(example, workload.batch).astype(feeds[name].dtype)
            for name, example in examples.items()
            if name in feeds and _batched(signature, name)
        }
    return feeds


def _check_batch(batch: int, signature: Signature) -> None:
    """Where the model has no batch axis a call takes as many examples as it takes: those that its
    first input has in front, or one if that is a vector."""
    if "batch" in signature.axes:
        return
    shape = signature.inputs[0].shape
    fixed = shape[0] if len(shape) > 1 and isinstance(shape[0], int) else 1
    if batch != fixed:
        raise InputError(f"the model's batch is fixed at {fixed}; batch = {batch} cannot be fed")


def _batched(signature: Signature, name: str) -> bool:
    """Whether an input's first axis is the batch and no other axis varies."""
    shape = next(spec.shape for spec in signature.inputs if spec.name == name)
    return shape[:1] == ("batch",) and all(isinstance(axis, int) for axis in shape[1:])


def _tiled(example: np.ndarray, batch: int) -> np.ndarray:
    return np.resize(example, (batch, *example.shape[1:]))


def load_examples(folder: Path) -> Feeds | None:
    """The example inputs that a user's factory gave, from its torch artifact; None without."""
    path = folder / "examples.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
