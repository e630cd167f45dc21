"""HQQ: a block's scale and zero point chosen for most of its weights, outliers be as they may.
Needs no data.

    min over s, z of || W - s (Q - z) ||_p^p        Q = nearest(W / s + z), p < 1

by half-quadratic splitting (Badri & Shaji 2023, "Half-Quadratic Quantization of large machine
learning models"): with E for a residual that may be large at a few weights, in turns

    E <- shrink(W - s (Q - z))        the proximal operator of |.|^p / beta
    s, z <- least squares of W - E on Q

The paper holds s and moves z, which stays a real number. Kernels read integer zero points, and z
alone then has nowhere to go; so here both move. Least squares shrink: their errors all point
against the weights, layer upon layer, which costs a trained decoder more than larger errors that
point anywhere. So each step's scales are stretched until <W, s (Q - z)> = <W, W>, and then each
block keeps the step of least squared error, round-to-nearest among them, than which it is never
worse.
"""

from __future__ import annotations

import numpy as np

from quantize.rounding.blocks import BlockCodes, Grid, cut_into_blocks, nearest, reciprocal
from quantize.rounding.rtn import extremes_grid

NORM, BETA, GROWTH, STEPS = 0.7, 10.0, 1.01, 20
"""The paper's p, its first beta, beta's growth a step, and the steps; for residuals in units of
the block's first scale."""


def hqq(weight: np.ndarray, block: int, symmetric: bool, bits: int = 4) -> BlockCodes:
    """Quantize a (K, N) float weight in blocks along K."""
    blocks = cut_into_blocks(np.asarray(weight, np.float32), block)
    best = extremes_grid(blocks, symmetric, bits)
    codes = best.codes(blocks)
    least = _squares(blocks, codes, best)
    unit = np.abs(best.scales)[..., None]
    scales, zeros, beta = best.scales, best.zero_points(), BETA
    now = codes.astype(np.float32)
    for _ in range(STEPS):
        residual = blocks - (now - zeros[..., None]) * scales[..., None]
        wanted = blocks - unit * _shrunk(residual * reciprocal(unit), beta)
        scales, zeros = _least_squares(wanted, now, scales, zeros, symmetric)
        beta *= GROWTH
        grid = Grid(bits, block, scales, None if symmetric else nearest(zeros, best.levels))
        tried = grid.codes(blocks)
        grid = _stretched(blocks, tried, grid)
        squares = _squares(blocks, tried, grid)
        better = squares < least
        least = np.where(better, squares, least)
        codes = np.where(better[..., None], tried, codes)
        best = _chosen(better, grid, best)
        now = np.clip(
            np.rint(blocks * reciprocal(scales)[..., None] + zeros[..., None]), 0, best.levels
        )
    return BlockCodes(best, codes, weight.shape[0])


def _shrunk(values: np.ndarray, beta: float) -> np.ndarray:
    """sign(x) max(|x| - |x|^(p-1) / beta, 0), the paper's generalised soft threshold."""
    sizes = np.abs(values)
    threshold = np.maximum(sizes, np.float32(1e-8)) ** np.float32(NORM - 1) / np.float32(beta)
    return np.sign(values) * np.maximum(sizes - threshold, 0)


def _least_squares(
    wanted: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
    symmetric: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """s and z of each block that minimise ||wanted - s (Q - z)||; as they were where a block's
    codes do not tell them (all alike) or would tell a scale of 0."""
    if symmetric:
        away = codes - zeros[..., None]
        fitted = _ratio((away * wanted).sum(-1), (away * away).sum(-1))
        return np.where(fitted != 0, fitted, scales), zeros
    code_mean, mean = codes.mean(-1, keepdims=True), wanted.mean(-1, keepdims=True)
    away = codes - code_mean
    fitted = _ratio((away * (wanted - mean)).sum(-1), (away * away).sum(-1))
    known = fitted != 0
    moved = code_mean[..., 0] - mean[..., 0] * reciprocal(fitted)
    return np.where(known, fitted, scales), np.where(known, moved, zeros)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _stretched(blocks: np.ndarray, codes: np.ndarray, grid: Grid) -> Grid:
    """The same codes under scales that leave no error along the weights."""
    away = codes.astype(np.float32) - grid.zero_points()[..., None]
    scales = _ratio(np.square(blocks).sum(-1), (blocks * away).sum(-1))
    return Grid(grid.bits, grid.block, np.where(scales != 0, scales, grid.scales), grid.zeros)


def _squares(blocks: np.ndarray, codes: np.ndarray, grid: Grid) -> np.ndarray:
    """(N, blocks): the squared error of each block."""
    stands_for = (codes.astype(np.float32) - grid.zero_points()[..., None]) * grid.scales[..., None]
    return np.square(blocks - stands_for).sum(-1)


def _chosen(better: np.ndarray, grid: Grid, best: Grid) -> Grid:
    zeros = None
    if grid.zeros is not None and best.zeros is not None:
        zeros = np.where(better, grid.zeros, best.zeros)
    return Grid(best.bits, best.block, np.where(better, grid.scales, best.scales), zeros)
