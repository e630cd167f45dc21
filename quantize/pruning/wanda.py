"""Wanda: a weight counts as much as what it passes on, |W_ij| * ||x_j||_2.

Compared within each output's row, or within its groups of an n:m pattern (Sun, Liu, Bair & Kolter
2023, "A simple and effective pruning approach for large language models"). A small weight on an
input of large norm stays where magnitude drops it. The other weights do not change.
"""

from __future__ import annotations

import numpy as np

from quantize.pruning.masks import keep_by_group, keep_by_row, last_in_rank
from quantize.pruning.pattern import Pattern


def wanda_kept(
    weight: np.ndarray, power: np.ndarray, sparsity: float, pattern: Pattern | None
) -> np.ndarray:
    """The mask of an (out, in) weight whose inputs have the mean square ``power``, (in,)."""
    scores = np.where(power > 0, np.abs(weight) * np.sqrt(power), last_in_rank(weight))
    return keep_by_group(scores, pattern) if pattern else keep_by_row(scores, sparsity)
