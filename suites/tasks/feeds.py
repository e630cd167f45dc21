"""From a task's tokens to the inputs that one model takes."""

from __future__ import annotations

import numpy as np

from compile.errors import InputError
from compile.signature import Feeds, Signature, TensorSpec


def fit_feeds(feeds: Feeds, signature: Signature) -> Feeds:
    """The signature's inputs in its order: what the model does not take is left out, and a KV
    cache is given empty (``past`` = 0).

    Raises InputError for an input that text cannot feed (an image).
    """
    return {spec.name: _input(spec, feeds) for spec in signature.inputs}


def _input(spec: TensorSpec, feeds: Feeds) -> np.ndarray:
    if spec.name in feeds:
        return np.ascontiguousarray(feeds[spec.name], np.dtype(spec.dtype))
    if "past" in spec.shape:
        sizes = {"batch": len(feeds["input_ids"]), "past": 0}
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape]
        return np.zeros(shape, np.dtype(spec.dtype))
    raise InputError(
        f"the model's input {spec.name!r} cannot be fed with text; a text task has "
        f"{', '.join(feeds)}"
    )
