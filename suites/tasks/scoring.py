"""Scores of single examples, and what a set of them says about the smallest drop it can show."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from compile.data import IGNORED

Scores = dict[str, np.ndarray]
"""Columns of per-example results, each ``(examples,)``."""

USUAL_FLIPS = 0.02
"""Share of predictions that become right or wrong under eight-bit quantization, as a rule."""

_ROWS = 2048
"""Positions scored at once, so that a large vocabulary does not multiply the memory."""


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


def prior_resolution(examples: int, spread: float, confidence: float = 0.95) -> float:
    """The drop that a paired comparison of ``examples`` can resolve, before it is measured.

    The one-sided bound of a mean difference lies ``z * spread / sqrt(n)`` beside it, where
    ``spread`` is the standard deviation of the examples' paired differences; for accuracy that
    is ``sqrt(flips)``, the root of the share of examples that become right or wrong. However
    small the spread, nothing below ``-ln(1 - confidence) / n`` is resolved: the bound on a share
    of which no case was seen (the rule of three).
    """
    z = NormalDist().inv_cdf(confidence)
    return max(z * spread / math.sqrt(examples), -math.log(1 - confidence) / examples)


def paired_resolution(
    difference: np.ndarray, weights: np.ndarray, confidence: float = 0.95
) -> float:
    """Half width of the one-sided bound of ``sum(difference) / sum(weights)``.

    Examples are the independent units and may weigh differently (tokens, bytes), so the
    variance is that of a ratio estimate (Cochran, "Sampling Techniques", 3rd ed., 6.3):
    ``n / (n - 1) * sum((d - r w)^2) / sum(w)^2`` with ``r`` the ratio itself. Never below the
    rule of three, as in ``prior_resolution``.
    """
    n, total = len(difference), float(weights.sum())
    if n < 2:
        return math.inf
    residual = difference - difference.sum() / total * weights
    error = math.sqrt(n / (n - 1) * float(residual @ residual)) / total
    return max(NormalDist().inv_cdf(confidence) * error, -math.log(1 - confidence) / n)
