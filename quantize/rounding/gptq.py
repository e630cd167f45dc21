"""GPTQ: round one input at a time, and let the inputs that are left make up for the error.

For a layer y = x W the error of the outputs is tr(D' H D) with D = W - Q and H the Gram matrix of
the layer's inputs, mean of x'x. Rounding row i of W (all that reads input i) by e_i, the rows that
are not rounded yet take the change that is best for the outputs,

    W_j -= (U_ij / U_ii) e_i        j > i,  H^-1 = U'U, U upper triangular

(Frantar, Ashkboos, Hoefler & Alistarh 2023, "GPTQ", on Optimal Brain Quantization). What goes wrong
elsewhere: with the factor transposed the rows of U below the diagonal are zero, nothing is made up
for, and the result is round-to-nearest.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from quantize.rounding.blocks import BlockCodes, Grid, cut_into_blocks
from quantize.rounding.rtn import extremes_grid

LAZY = 128
"""Rows whose changes are added up before they reach all rows behind them, in one product."""


def gptq(
    weight: np.ndarray,
    gram: np.ndarray,
    block: int,
    symmetric: bool,
    bits: int = 4,
    *,
    damping: float = 0.01,
    activation_order: bool = True,
) -> BlockCodes:
    """Quantize a (K, N) float weight in blocks along K, given the (K, K) Gram matrix of its inputs.

    ``damping`` times the mean of the Gram matrix's diagonal is added to the diagonal: calibration
    says nothing of directions in which it saw nothing. With ``activation_order`` inputs of the
    largest power are rounded first, when all others can still make up for them, and each block's
    grid is that of the weights as they came, so that a block still is a stretch of K. Without, rows
    come as they lie, and a block's grid spans its weights as they have become.
    """
    order, factor = factors(gram, damping, activation_order)
    changing = np.asarray(weight, np.float32)[order]
    grid = extremes_grid(cut_into_blocks(np.asarray(weight, np.float32), block), symmetric, bits)
    scales = grid.scales.copy()
    zeros = None if grid.zeros is None else grid.zeros.copy()
    codes = np.empty(changing.shape, np.uint8)
    for start in range(0, len(changing), LAZY):
        end = min(start + LAZY, len(changing))
        errors = np.empty((end - start, changing.shape[1]), np.float32)
        for i in range(start, end):
            place = order[i]
            if not activation_order and place % block == 0:
                # The rows of this block as they are now, the changes that are due included.
                rows = _due(changing, errors, factor, start, i, min(i + block, len(changing)))
                fresh = extremes_grid(cut_into_blocks(rows, block), symmetric, bits)
                scales[:, place // block] = fresh.scales[:, 0]
                if zeros is not None and fresh.zeros is not None:
                    zeros[:, place // block] = fresh.zeros[:, 0]
                grid = Grid(bits, block, scales, zeros)
            codes[i], rounded = grid.row(changing[i], place // block)
            errors[i - start] = (changing[i] - rounded) / factor[i, i]
            changing[i + 1 : end] -= np.outer(factor[i, i + 1 : end], errors[i - start])
        changing[end:] -= factor[start:end, end:].T @ errors
    return BlockCodes(grid, _laid_out(codes, order, grid), len(weight))


def factors(
    gram: np.ndarray, damping: float, activation_order: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(the order of the inputs, float32 U of their inverse damped Gram matrix in that order).

    With M M' = H for an upper triangular M, U is its inverse. An input that was zero throughout
    stands alone: nothing is known of it, so nothing makes up for it, nor it for others.
    """
    damped = np.array(gram, np.float64)
    power = np.diag(damped).copy()
    silent = power <= 0
    damped[silent, silent] = 1.0
    mean = float(power[~silent].mean()) if not silent.all() else 1.0
    damped[np.diag_indices_from(damped)] += damping * mean
    order = np.argsort(-power, kind="stable") if activation_order else np.arange(len(power))
    turned = damped[np.ix_(order, order)][::-1, ::-1]
    upper = linalg.cholesky(turned, lower=True, check_finite=True)[::-1, ::-1]
    inverse = linalg.solve_triangular(upper, np.eye(len(upper)), lower=False)
    return order, inverse.astype(np.float32)


def _due(
    changing: np.ndarray, errors: np.ndarray, factor: np.ndarray, start: int, i: int, end: int
) -> np.ndarray:
    """Rows i to ``end``, with what the lazy updates so far owe to those behind their stretch."""
    rows = changing[i:end].copy()
    behind = min(start + LAZY, len(changing))
    if end > behind and i > start:
        rows[behind - i :] -= factor[start:i, behind:end].T @ errors[: i - start]
    return rows


def _laid_out(codes: np.ndarray, order: np.ndarray, grid: Grid) -> np.ndarray:
    """(K, N) codes in the order of their rounding -> (N, blocks, block) in the order of K."""
    rows, columns = codes.shape
    laid = np.repeat(grid.zero_points().astype(np.uint8), grid.block, axis=1)
    laid[:, :rows][:, order] = codes.T
    return laid.reshape(columns, -1, grid.block)
