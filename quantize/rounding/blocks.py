"""Weights in 4-bit codes by blocks, and the layout in which ``MatMulNBits`` reads them.

A weight of shape (K, N), K the reduced axis, is cut along K into blocks. Each block of each column
has a scale s and a zero point z, and code c stands for (c - z) * s. Every rounding algorithm ends
here, whatever way it chose the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BITS = 4
MIDDLE = 1 << (BITS - 1)
"""The zero point of symmetric blocks; ``MatMulNBits`` assumes it where it is given none."""


@dataclass(frozen=True)
class BlockCodes:
    """A quantized (K, N) weight, transposed to columns first as the kernels read it."""

    codes: np.ndarray
    """uint8 (N, blocks, block), each 0..15. Rows past K hold the zero point: they stand for 0."""
    scales: np.ndarray
    """float32 (N, blocks)."""
    zeros: np.ndarray | None
    """uint8 (N, blocks), each 0..15; None for symmetric blocks, whose zero point is 8."""
    rows: int
    """K, which need not be a multiple of the block."""

    def dequantize(self) -> np.ndarray:
        """The float32 (K, N) weight that the codes stand for."""
        zeros = MIDDLE if self.zeros is None else self.zeros[..., None].astype(np.float32)
        weight = (self.codes.astype(np.float32) - zeros) * self.scales[..., None]
        return weight.reshape(len(weight), -1)[:, : self.rows].T

    def packed(self) -> np.ndarray:
        """uint8 (N, blocks, block / 2): two codes a byte, the earlier in the low half."""
        return pack_pairs(self.codes)

    def packed_zeros(self) -> np.ndarray | None:
        """uint8 (N, ceil(blocks / 2)); an odd last one has an empty high half."""
        return None if self.zeros is None else pack_pairs(self.zeros)


def cut_into_blocks(weight: np.ndarray, block: int) -> np.ndarray:
    """(K, N) -> (N, ceil(K / block), block), the last block filled with zeros."""
    columns = weight.T
    missing = -columns.shape[1] % block
    padded = np.pad(columns, ((0, 0), (0, missing)))
    return padded.reshape(len(columns), -1, block)


def pack_pairs(codes: np.ndarray) -> np.ndarray:
    """4-bit codes in pairs along the last axis, (..., n) -> (..., ceil(n / 2))."""
    if codes.shape[-1] % 2:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, 1)])
    return codes[..., 0::2] | (codes[..., 1::2] << BITS)
