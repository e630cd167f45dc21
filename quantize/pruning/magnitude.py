"""Magnitude: the smallest weights go (Han et al. 2015, "Learning both weights and connections").

No data are looked at. Compared with one another are the weights of all layers (``global``), of one
layer, or of a group of an n:m pattern.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantize.pruning.masks import keep_by_group, keep_overall
from quantize.pruning.pattern import Pattern


def magnitude_kept(weight: np.ndarray, sparsity: float, pattern: Pattern | None) -> np.ndarray:
    """The mask of one (out, in) weight; a pattern decides the share itself."""
    scores = np.abs(weight)
    return keep_by_group(scores, pattern) if pattern else keep_overall(scores, sparsity)


def global_magnitude_kept(
    weights: Mapping[str, np.ndarray], sparsity: float
) -> dict[str, np.ndarray]:
    """The masks of all layers, of whose weights together that share of smallest goes."""
    together = np.concatenate([np.abs(weight).reshape(-1) for weight in weights.values()])
    kept = keep_overall(together, sparsity)
    ends = np.cumsum([weight.size for weight in weights.values()])
    parts = np.split(kept, ends[:-1])
    return {
        name: part.reshape(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }
