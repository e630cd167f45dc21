"""AWQ: inputs that carry much are scaled up in the weight, where rounding then hurts them less.

    y = x W = (x / s) (s W)        s_i = m_i^alpha / sqrt(max m^alpha min m^alpha)

with m the mean magnitude of each input, exact until s W is rounded (Lin et al. 2023, "AWQ:
Activation-aware Weight Quantization"). alpha is searched on a grid for the least error of the
outputs, and 0, which changes nothing, is one of its points: on the calibration data the result is
never worse than without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

ALPHAS = tuple(np.round(np.arange(20) / 20, 2))
"""As many as in the paper's search, from 0."""


class Scaling(NamedTuple):
    """What a search found for the layers that share an input."""

    scales: np.ndarray
    """float32 (K,): what the weights' rows are multiplied by and the input is divided by."""
    alpha: float
    error: float
    """Of the outputs, of their power, summed over the layers."""
    error_before: float
    """The same without scaling."""


def search_scales(
    weights: Sequence[np.ndarray],
    magnitudes: np.ndarray,
    gram: np.ndarray,
    rounded: Callable[[np.ndarray], np.ndarray],
    alphas: Sequence[float] = ALPHAS,
) -> Scaling:
    """The scales under which the (K, N) ``weights``, which share an input, lose least.

    ``magnitudes`` (K,) are the means of |x|, ``gram`` (K, K) is the mean of x'x, ``rounded`` gives
    the weight that codes stand for.
    """
    gram = np.asarray(gram, np.float32)
    power = sum(squared_error(weight, gram) for weight in weights)
    found: list[tuple[float, float, np.ndarray]] = []
    for alpha in alphas:
        scales = scales_of(magnitudes, alpha)
        column = scales[:, None]
        error = sum(
            squared_error(rounded(weight * column) / column - weight, gram) for weight in weights
        )
        found.append((error / power if power else 0.0, float(alpha), scales))
    before = next(error for error, alpha, _ in found if alpha == 0)
    error, alpha, scales = min(found, key=lambda each: each[0])
    return Scaling(scales, alpha, error, before)


def scales_of(magnitudes: np.ndarray, alpha: float) -> np.ndarray:
    """float32 (K,). An input that was never seen is scaled like the smallest that was."""
    seen = magnitudes > 0
    if alpha == 0 or not seen.any():
        return np.ones(len(magnitudes), np.float32)
    raised = np.where(seen, magnitudes, magnitudes[seen].min()).astype(np.float64) ** alpha
    return (raised / np.sqrt(raised.max() * raised.min())).astype(np.float32)


def squared_error(change: np.ndarray, gram: np.ndarray) -> float:
    """tr(D' H D), the mean of ||x D||^2 over the inputs whose Gram matrix is H."""
    return float(np.vdot(change, gram @ change))
