"""SparseGPT: drop one input after another, and let the inputs that are left make up for it.

For outputs y = W x with H the Gram matrix of the inputs, a weight that goes costs w^2 / U_jj^2, and
the weights of the same output on later inputs take the change that is best for the outputs,

    W_k -= (w_j / U_jj) U_jk        k > j,  H^-1 = U'U, U upper triangular

(Frantar & Alistarh 2023, "SparseGPT: massive language models can be accurately pruned in one-shot",
on Optimal Brain Surgeon). Which weights go is decided for each block of ``BLOCK`` inputs when it is
reached, over all its outputs together, or for each group of an n:m pattern.
"""

from __future__ import annotations

import numpy as np

from quantize.pruning.masks import keep_by_group, keep_overall, last_in_rank
from quantize.pruning.pattern import Pattern
from quantize.rounding.gptq import factors

BLOCK = 128
DAMPING = 0.01
"""Share of the inputs' mean power that is added to each: calibration says nothing of directions in
which it saw nothing."""


def sparsegpt(
    weight: np.ndarray,
    gram: np.ndarray,
    sparsity: float,
    pattern: Pattern | None,
    *,
    block: int = BLOCK,
    damping: float = DAMPING,
) -> tuple[np.ndarray, np.ndarray]:
    """The float32 pruned (out, in) weight and its mask, given the (in, in) Gram matrix.

    An input that was zero throughout calibration takes part in no making up, and its weights go
    first. ``block`` is cut to whole groups of the pattern.
    """
    # In the inputs' own order: groups of a pattern are neighbours.
    _, factor = factors(gram, damping, activation_order=False)
    silent = np.diag(gram) <= 0
    changing = np.array(weight, np.float32)
    kept = np.ones(changing.shape, bool)
    if pattern:
        block = max(1, block // pattern.m) * pattern.m
    for start in range(0, changing.shape[1], block):
        end = min(start + block, changing.shape[1])
        if pattern is None:
            here = slice(start, end)
            kept[:, here] = keep_overall(_costs(changing, factor, silent, here), sparsity)
        errors = np.empty((len(changing), end - start), np.float32)
        for j in range(start, end):
            if pattern and (j - start) % pattern.m == 0:
                group = slice(j, j + pattern.m)
                kept[:, group] = keep_by_group(_costs(changing, factor, silent, group), pattern)
            error = np.where(kept[:, j], 0, changing[:, j]) / factor[j, j]
            changing[:, j] = np.where(kept[:, j], changing[:, j], 0)
            changing[:, j + 1 : end] -= np.outer(error, factor[j, j + 1 : end])
            errors[:, j - start] = error
        # What the inputs behind this block owe, in one product.
        changing[:, end:] -= errors @ factor[start:end, end:]
    return changing, kept


def _costs(weight: np.ndarray, factor: np.ndarray, silent: np.ndarray, inputs: slice) -> np.ndarray:
    """What dropping each of these weights costs the outputs, as they are now."""
    part = weight[:, inputs]
    costs = (part / np.diag(factor)[inputs]) ** 2
    return np.where(silent[inputs], last_in_rank(part), costs)
