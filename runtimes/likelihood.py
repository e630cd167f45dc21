"""What logits say of their labels, reduced where the logits are made.

A language model's logits for a test split are gigabytes; their negative log-likelihoods and
predictions are what a task scores, and all of them that leaves a worker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compile.data import IGNORED
from compile.errors import Incorrect

_ROWS = 2048
"""Positions reduced at once, so that a large vocabulary does not multiply the memory."""


@dataclass(frozen=True)
class Answers:
    """A batch's answers, each array of the shape of its labels."""

    nll: np.ndarray
    """float64, nats; 0 where the label is ``IGNORED``."""
    predicted: np.ndarray
    """int64, the likeliest class; ``IGNORED`` where the label is."""
    logits: np.ndarray | None = None
    """``(batch, classes)`` float32 of a classifier; None where every token has its own."""


def answers(logits: np.ndarray, labels: np.ndarray) -> Answers:
    """Reduce a call's logits ``(rows, ..., classes)`` to ``labels``.

    Logits beyond the labels' rows and columns are padding, and are cut off. Raises Incorrect
    for logits that are not finite, ValueError for shapes or labels that do not fit.
    """
    logits = logits[tuple(slice(size) for size in labels.shape)]
    if not np.isfinite(logits.astype(np.float32, copy=False)).all():
        raise Incorrect("the logits are not finite")
    nll, predicted = cross_entropy(logits, labels)
    kept = logits.astype(np.float32, copy=False) if logits.ndim == 2 else None
    return Answers(nll, predicted, kept)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood in nats (float64) and prediction (int64) for each label.

    ``logits`` has the shape ``labels.shape + (classes,)`` and any float dtype. Where a label is
    ``IGNORED`` the likelihood term is 0 and the prediction ``IGNORED``. NaN logits give NaN.
    Raises ValueError for shapes or labels that do not fit.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits of shape {logits.shape} do not fit labels of {labels.shape}")
    classes = logits.shape[-1]
    asked = np.flatnonzero(labels.ravel() != IGNORED)
    flat_logits, flat_labels = logits.reshape(-1, classes), labels.ravel()
    if len(asked) and not 0 <= flat_labels[asked].min() <= flat_labels[asked].max() < classes:
        raise ValueError(f"a label lies outside the {classes} classes of the logits")
    nll = np.zeros(labels.size, np.float64)
    predicted = np.full(labels.size, IGNORED, np.int64)
    for start in range(0, len(asked), _ROWS):
        rows = asked[start : start + _ROWS]
        values = flat_logits[rows].astype(np.float32)
        predicted[rows] = values.argmax(axis=1)
        values -= values.max(axis=1, keepdims=True)
        own = values[np.arange(len(rows)), flat_labels[rows]].astype(np.float64)
        nll[rows] = np.log(np.exp(values).sum(axis=1, dtype=np.float64)) - own
    return nll.reshape(labels.shape), predicted.reshape(labels.shape)
