"""Round to nearest: each block's scale from its extremes, each weight to the closest code.

The choice of scale and zero point is that of ONNX Runtime's own 4-bit quantizer
(``MlasQuantizeBlockwise``), with which the tests compare code by code.
"""

from __future__ import annotations

import numpy as np

from quantize.rounding.blocks import BlockCodes, Grid, cut_into_blocks, nearest, reciprocal


def round_to_nearest(weight: np.ndarray, block: int, symmetric: bool, bits: int = 4) -> BlockCodes:
    """Quantize a (K, N) float weight in blocks along K."""
    blocks = cut_into_blocks(np.asarray(weight, np.float32), block)
    grid = extremes_grid(blocks, symmetric, bits)
    return BlockCodes(grid, grid.codes(blocks), weight.shape[0])


def extremes_grid(blocks: np.ndarray, symmetric: bool, bits: int) -> Grid:
    """The grid that spans each of (N, blocks, block) weights.

    Symmetric: the element of largest magnitude becomes code 0 exactly, s = w_max / -2^(bits-1), so
    that all codes are used and the scale may be negative. Asymmetric: the range, widened to hold 0
    (which then is exact), is cut into 2^bits - 1 steps.
    """
    levels, block = (1 << bits) - 1, blocks.shape[-1]
    if symmetric:
        places = np.abs(blocks).argmax(axis=-1, keepdims=True)
        largest = np.take_along_axis(blocks, places, axis=-1)[..., 0]
        return Grid(bits, block, largest / np.float32(-(1 << (bits - 1))), None)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scales = (high - low) / np.float32(levels)
    return Grid(bits, block, scales, nearest(-low * reciprocal(scales), levels))
