"""Round to nearest by columns: symmetric 8-bit codes with one scale for each output channel."""

from __future__ import annotations

import numpy as np


def channel_codes(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric codes of a (K, N) weight: int8 (K, N), and float32 scales (N,).

    s = max |w| / (2^(bits-1) - 1) per column; a column of zeros gets scale 1.
    """
    limit = np.float32((1 << (bits - 1)) - 1)
    largest = np.abs(weight).max(axis=0, initial=0)
    scales = np.where(largest > 0, largest / limit, 1).astype(np.float32)
    codes = np.clip(np.rint(weight / scales), -limit, limit).astype(np.int8)
    return codes, scales
