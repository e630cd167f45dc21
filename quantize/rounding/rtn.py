"""Round to nearest: each block's scale from its extremes, each weight to the closest code.

The choice of scale and zero point is that of ONNX Runtime's own 4-bit quantizer
(``MlasQuantizeBlockwise``), with which the tests compare code by code.
"""

from __future__ import annotations

import numpy as np

from quantize.rounding.blocks import BITS, MIDDLE, BlockCodes, cut_into_blocks

LEVELS = (1 << BITS) - 1


def round_to_nearest(weight: np.ndarray, block: int, symmetric: bool) -> BlockCodes:
    """Quantize a (K, N) float weight in blocks along K.

    Symmetric: the element of largest magnitude becomes code 0 exactly, s = w_max / -8, so that
    all 16 codes are used and the scale may be negative. Asymmetric: the range, widened to hold 0
    (which then is exact), is cut into 15 steps.
    """
    blocks = cut_into_blocks(np.asarray(weight, np.float32), block)
    if symmetric:
        largest = np.take_along_axis(
            blocks, np.abs(blocks).argmax(axis=-1, keepdims=True), axis=-1
        )[..., 0]
        scales = largest / np.float32(-MIDDLE)
        zeros = np.full(scales.shape, MIDDLE, np.float32)
    else:
        low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
        scales = (high - low) / np.float32(LEVELS)
        zeros = _nearest(-low * _reciprocal(scales))
    codes = _nearest(blocks * _reciprocal(scales)[..., None] + zeros[..., None])
    return BlockCodes(
        codes=codes.astype(np.uint8),
        scales=scales,
        zeros=None if symmetric else zeros.astype(np.uint8),
        rows=weight.shape[0],
    )


def _reciprocal(scales: np.ndarray) -> np.ndarray:
    """1 / s, and 0 for a block of zeros, whose codes then are its zero point."""
    return np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)


def _nearest(values: np.ndarray) -> np.ndarray:
    """The closest code, halves away from zero as in C's ``roundf``."""
    return np.clip(np.floor(values + np.float32(0.5)), 0, LEVELS)
