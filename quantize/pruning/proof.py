"""What is proven of pruned weights: their zeros lie as asked, and what that cost the outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from quantize.audit import PassFailed
from quantize.pruning.pattern import Pattern

CLOSE = 0.01
"""How far the share of zeros may be from the one asked for: shares are of whole weights."""
STORAGE_ONLY = "storage only: zeros are multiplied like other numbers here"


def check_weights(name: str, weights: Mapping[str, np.ndarray], pattern: Pattern | None) -> None:
    """Before anything is pruned: all (out, in) weights are finite and have whole groups."""
    for layer, weight in weights.items():
        if not np.isfinite(weight).all():
            bad = int(weight.size - np.isfinite(weight).sum())
            raise PassFailed(name, f"weights of {layer!r}", "finite ones", f"{bad} that are not")
        if pattern and weight.shape[1] % pattern.m:
            raise PassFailed(
                name,
                f"inputs of {layer!r}",
                f"a multiple of {pattern.m} for pattern {pattern}, or its name in exclude",
                f"{weight.shape[1]}",
            )


def check_zeros(
    name: str,
    weights: Mapping[str, np.ndarray],
    sparsity: float,
    pattern: Pattern | None,
    before: float,
) -> dict[str, Any]:
    """The weights, as they were saved, have the zeros asked for: each group of m its m - n, and
    all together the share, beside the share ``before`` that was zero already."""
    for layer, weight in weights.items():
        if pattern and (bad := _dense_groups(weight, pattern)):
            raise PassFailed(
                name,
                f"pattern of {layer!r}",
                f"{pattern.m - pattern.n} zeros in each group of {pattern.m}",
                f"{bad} groups with fewer",
            )
    total = zero_share(weights)
    if not sparsity - CLOSE <= total <= sparsity + before + CLOSE:
        raise PassFailed(name, "share of zeros", f"{sparsity:g} within {CLOSE}", f"{total:.4f}")
    facts: dict[str, Any] = {
        "pattern": str(pattern) if pattern else "unstructured",
        "sparsity": round(total, 4),
        "sparsity_by_layer": {n: round(float((w == 0).mean()), 4) for n, w in weights.items()},
        "kernels": STORAGE_ONLY,
    }
    if pattern:
        facts["groups_proven"] = sum(w.size // pattern.m for w in weights.values())
    return facts


def zero_share(weights: Mapping[str, np.ndarray]) -> float:
    """Share of all the weights that are exactly zero."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.size for weight in weights.values())


def reconstruction_error(weight: np.ndarray, pruned: np.ndarray, gram: np.ndarray) -> float:
    """||W X - W' X|| / ||W X|| (Frobenius) over the inputs X, known by their Gram matrix, with
    (out, in) weights; 0 where the outputs are zero before and after."""
    wide = gram.astype(np.float64)

    def power(of: np.ndarray) -> float:
        exact = of.astype(np.float64)
        return max(0.0, float(np.sum(exact @ wide * exact)))

    error, signal = power(weight - pruned), power(weight)
    if signal == 0:
        return 0.0 if error == 0 else math.inf
    return math.sqrt(error / signal)


def _dense_groups(weight: np.ndarray, pattern: Pattern) -> int:
    """Groups with fewer than m - n zeros."""
    zeros = (weight.reshape(-1, pattern.m) == 0).sum(axis=1)
    return int((zeros < pattern.m - pattern.n).sum())
