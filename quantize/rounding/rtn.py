"""Round to nearest: each block's scale from its extremes, each weight to the closest code.

The choice of scale and zero point is that of ONNX Runtime's own 4-bit quantizer
(``MlasQuantizeBlockwise``), with which the tests compare code by code.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from quantize.rounding.blocks import BlockCodes, Grid, cut_into_blocks, nearest, reciprocal

AT_ONCE = 1 << 18
"""Weights rounded at a time."""


def round_to_nearest(weight: np.ndarray, block: int, symmetric: bool, bits: int = 4) -> BlockCodes:
    """Quantize a (K, N) float weight in blocks along K."""
    weight = np.asarray(weight, np.float32)
    rows, columns = weight.shape
    # Few columns at a time, so that all that is made of them stays in a core's cache.
    step = max(1, AT_ONCE // max(rows, 1))

    def rounded(start: int) -> tuple[Grid, np.ndarray]:
        blocks = cut_into_blocks(weight[:, start : start + step], block)
        grid = extremes_grid(blocks, symmetric, bits)
        return grid, grid.codes(blocks)

    starts = range(0, max(columns, 1), step)
    # NumPy lets go of Python's lock while it computes.
    with ThreadPoolExecutor(min(len(starts), len(os.sched_getaffinity(0)))) as pool:
        grids, codes = zip(*pool.map(rounded, starts), strict=True)
    zeros = [grid.zeros for grid in grids if grid.zeros is not None]
    grid = Grid(
        bits,
        block,
        np.concatenate([grid.scales for grid in grids]),
        np.concatenate(zeros) if zeros else None,
    )
    return BlockCodes(grid, np.concatenate(codes), rows)


def extremes_grid(blocks: np.ndarray, symmetric: bool, bits: int) -> Grid:
    """The grid that spans each of (N, blocks, block) weights.

    Symmetric: the element of largest magnitude becomes code 0 exactly, s = w_max / -2^(bits-1), so
    that all codes are used and the scale may be negative. Asymmetric: the range, widened to hold 0
    (which then is exact), is cut into 2^bits - 1 steps.
    """
    levels, block = (1 << bits) - 1, blocks.shape[-1]
    if symmetric:
        low, high = blocks.min(-1), blocks.max(-1)
        largest = np.where(high > -low, high, low)
        if (both := high == -low).any():
            # Of two that lie equally far from zero, the first one.
            places = np.abs(blocks[both]).argmax(axis=-1, keepdims=True)
            largest[both] = np.take_along_axis(blocks[both], places, axis=-1)[..., 0]
        return Grid(bits, block, largest / np.float32(-(1 << (bits - 1))), None)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scales = (high - low) / np.float32(levels)
    return Grid(bits, block, scales, nearest(-low * reciprocal(scales), levels))
