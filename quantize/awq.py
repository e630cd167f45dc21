"""AWQ: inputs that carry much are scaled up in the weight, where rounding then hurts them less.

    y = x W = (x / s) (s W)        s_i = m_i^alpha / sqrt(max m^alpha min m^alpha)

with m the mean magnitude of each input, exact until s W is rounded (Lin et al. 2023, "AWQ:
Activation-aware Weight Quantization"). alpha is searched for the least error of the outputs that
the rounding to come will leave; scales that gain nothing are left at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from compile.artifact import Artifact, Made
from compile.data import DataSource
from quantize.absorb import Group
from quantize.gram import InputStatistics, squared_error
from quantize.migration import Scaling, make_scaled
from quantize.passes import Awq
from quantize.rounding.gptq import gptq
from quantize.rounding.hqq import hqq
from quantize.rounding.rtn import round_to_nearest

ALPHAS = tuple(float(alpha) for alpha in np.round(np.arange(1, 20) / 20, 2))
"""The grid of the paper's search. With 0 nothing is scaled."""
Rounding = Callable[[np.ndarray], np.ndarray]
"""A (K, N) weight -> the weight that its codes stand for."""


def make_awq(
    source: Artifact,
    asked: Awq,
    folder: Path,
    data: DataSource,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass (``quantize/migration.py``)."""

    def search(group: Group, seen: InputStatistics) -> Scaling:
        weights = [layer.values() for layer in group.layers]
        one_by_one = hqq if asked.rounding == "hqq" else round_to_nearest
        found = search_scales(
            weights,
            seen,
            lambda w: one_by_one(w, asked.block, asked.symmetric, asked.bits).dequantize(),
        )
        return with_gptq(weights, seen, found, asked) if asked.rounding == "gptq" else found

    return make_scaled(source, asked, folder, data, progress, search)


def search_scales(
    weights: Sequence[np.ndarray],
    seen: InputStatistics,
    rounded: Rounding,
    alphas: Sequence[float] = ALPHAS,
) -> Scaling:
    """The scales under which the (K, N) ``weights``, which share an input, lose least."""
    width = len(seen.magnitudes)
    unscaled = np.ones(width, np.float32)
    before = relative_error(weights, seen, unscaled, rounded)
    best = Scaling(unscaled, None, before, before)
    for alpha in alphas:
        scales = scales_of(seen.magnitudes, alpha)
        error = relative_error(weights, seen, scales, rounded)
        if error < best.error:
            best = Scaling(scales, alpha, error, before)
    return best


def with_gptq(
    weights: Sequence[np.ndarray], seen: InputStatistics, found: Scaling, asked: Awq
) -> Scaling:
    """The scales that were found for weights rounded one by one (GPTQ in each step of the search
    would take too long), if GPTQ too loses less with them; else none."""
    unscaled = np.ones_like(found.scales)
    errors = []
    for scales in (found.scales, unscaled):
        gram = seen.gram / scales[:, None] / scales

        def rounded(weight: np.ndarray, gram: np.ndarray = gram) -> np.ndarray:
            return gptq(weight, gram, asked.block, asked.symmetric, asked.bits).dequantize()

        errors.append(relative_error(weights, seen, scales, rounded))
    if found.alpha is not None and errors[0] < errors[1]:
        return Scaling(found.scales, found.alpha, *errors)
    return Scaling(unscaled, None, errors[1], errors[1])


def relative_error(
    weights: Sequence[np.ndarray], seen: InputStatistics, scales: np.ndarray, rounded: Rounding
) -> float:
    """Of the outputs of all these layers, squared, over their power."""
    column = scales[:, None]
    power = sum(squared_error(weight, seen.gram) for weight in weights)
    lost = sum(
        squared_error(rounded(weight * column) / column - weight, seen.gram) for weight in weights
    )
    return lost / power if power else 0.0


def scales_of(magnitudes: np.ndarray, alpha: float) -> np.ndarray:
    """float32 (K,). An input that was never seen is scaled like the smallest that was."""
    heard = magnitudes > 0
    if not heard.any():
        return np.ones(len(magnitudes), np.float32)
    raised = np.where(heard, magnitudes, magnitudes[heard].min()).astype(np.float64) ** alpha
    return (raised / np.sqrt(raised.max() * raised.min())).astype(np.float32)
