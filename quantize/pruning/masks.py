"""Exact shares of smallest scores: of a whole array, of each row, of each group of m.

Scores are ranked, not held against a threshold, so that equal ones do not fall together: as many go
as are asked for, the first of equal ones before the others. A mask is True where a weight stays.
"""

from __future__ import annotations

import numpy as np

from quantize.pruning.pattern import Pattern


def keep_overall(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """All but the ``sparsity`` share of smallest scores of the array, of any shape."""
    flat = scores.reshape(-1)
    count = round(sparsity * flat.size)
    kept = np.ones(flat.shape, bool)
    if count:
        limit = np.partition(flat, count - 1)[count - 1]
        kept[flat < limit] = False
        ties = np.flatnonzero(flat == limit)
        kept[ties[: count - int((~kept).sum())]] = False
    return kept.reshape(scores.shape)


def keep_by_row(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """All but that share of smallest scores of each row of (out, in)."""
    return _without_first(scores, round(sparsity * scores.shape[1]))


def keep_by_group(scores: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Of each m neighbours in a row of (out, in) the n of largest score.

    Raises ValueError where the rows are not whole groups.
    """
    out, width = scores.shape
    if width % pattern.m:
        raise ValueError(f"rows of {width} inputs are not whole groups of {pattern.m}")
    groups = scores.reshape(-1, pattern.m)
    return _without_first(groups, pattern.m - pattern.n).reshape(out, width)


def last_in_rank(weight: np.ndarray) -> np.ndarray:
    """Scores of weights that read an input which was zero throughout calibration: below those of
    all others, the smallest of them lowest. What they multiply is nothing, as far as is known."""
    return -1 / (1 + np.abs(weight))


def _without_first(scores: np.ndarray, count: int) -> np.ndarray:
    kept = np.ones(scores.shape, bool)
    order = np.argsort(scores, axis=1, kind="stable")
    np.put_along_axis(kept, order[:, :count], False, axis=1)
    return kept
