"""Weights in codes of few bits by blocks, and the layout in which ``MatMulNBits`` reads them.

A weight of shape (K, N), K the reduced axis, is cut along K into blocks. Each block of each column
has a scale s and a zero point z, and code c stands for (c - z) * s. Every rounding algorithm ends
here, whatever way it chose the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STORED_BITS = {2: 2, 3: 4, 4: 4, 8: 8}
"""Bits of a code -> bits that it takes: no kernel reads codes of 3, which lie in fields of 4."""


@dataclass(frozen=True)
class Grid:
    """What the codes of a (K, N) weight stand for: its blocks' scales and zero points."""

    bits: int
    block: int
    """Rows along K that share a scale."""
    scales: np.ndarray
    """float32 (N, blocks). Negative ones are allowed; a block of zeros has 0."""
    zeros: np.ndarray | None
    """uint8 (N, blocks); None for symmetric blocks, whose zero point is ``middle``."""

    @property
    def middle(self) -> int:
        """The zero point of symmetric blocks; ``MatMulNBits`` assumes it where it is given none."""
        return 1 << (self.bits - 1)

    @property
    def levels(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def zero_points(self) -> np.ndarray:
        """float32 (N, blocks), those of symmetric blocks too."""
        if self.zeros is None:
            return np.full(self.scales.shape, self.middle, np.float32)
        return self.zeros.astype(np.float32)

    def codes(self, blocks: np.ndarray) -> np.ndarray:
        """The closest code of each weight: (N, blocks, block) float -> the same in uint8."""
        zeros = self.zero_points()[..., None]
        return nearest(blocks * reciprocal(self.scales)[..., None] + zeros, self.levels)

    def row(self, weight_row: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Of one row of the weight, (N,), that lies in that block: its codes, and what they stand
        for."""
        scales, zeros = self.scales[:, block], self.zero_points()[:, block]
        codes = nearest(weight_row * reciprocal(scales) + zeros, self.levels)
        return codes, (codes - zeros) * scales


@dataclass(frozen=True)
class BlockCodes:
    """A quantized (K, N) weight, transposed to columns first as the kernels read it."""

    grid: Grid
    codes: np.ndarray
    """uint8 (N, blocks, block). Rows past K hold the zero point: they stand for 0."""
    rows: int
    """K, which need not be a multiple of the block."""

    @property
    def scales(self) -> np.ndarray:
        return self.grid.scales

    @property
    def zeros(self) -> np.ndarray | None:
        return self.grid.zeros

    def dequantize(self) -> np.ndarray:
        """The float32 (K, N) weight that the codes stand for."""
        zeros = self.grid.zero_points()[..., None]
        weight = (self.codes.astype(np.float32) - zeros) * self.scales[..., None]
        return weight.reshape(len(weight), -1)[:, : self.rows].T

    def packed(self) -> np.ndarray:
        """uint8 (N, blocks, block * stored bits / 8): the earliest code in the lowest bits.

        Symmetric codes in wider fields are moved to the middle of those, where kernels expect it.
        """
        stored = STORED_BITS[self.grid.bits]
        moved = (1 << (stored - 1)) - self.grid.middle if self.zeros is None else 0
        return pack(self.codes + np.uint8(moved), stored)

    def packed_zeros(self) -> np.ndarray | None:
        """uint8 (N, ceil(blocks * stored bits / 8)); None for symmetric blocks."""
        return None if self.zeros is None else pack(self.zeros, STORED_BITS[self.grid.bits])


def cut_into_blocks(weight: np.ndarray, block: int) -> np.ndarray:
    """(K, N) -> (N, ceil(K / block), block), the last block filled with zeros."""
    columns = weight.T
    missing = -columns.shape[1] % block
    padded = np.pad(columns, ((0, 0), (0, missing)))
    return padded.reshape(len(columns), -1, block)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of 2, 4 or 8 bits side by side in bytes along the last axis,
    (..., n) -> (..., ceil(n * bits / 8))."""
    each = 8 // bits
    if missing := -codes.shape[-1] % each:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    packed = codes[..., 0::each].copy()
    for place in range(1, each):
        packed |= codes[..., place::each] << np.uint8(bits * place)
    return packed


def reciprocal(scales: np.ndarray) -> np.ndarray:
    """1 / s, and 0 for a block of zeros, whose codes then are its zero point."""
    return np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)


def nearest(values: np.ndarray, levels: int) -> np.ndarray:
    """The closest code, uint8, halves away from zero as in C's ``roundf``."""
    moved = values + np.float32(0.5)
    # What is above zero is cut to a whole number as it becomes an integer.
    return np.clip(moved, 0, levels, out=moved).astype(np.uint8)
