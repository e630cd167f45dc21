"""SmoothQuant: part of an activation's range is moved into the weights that read it.

    y = x W = (x / s) (s W)        s_j = max|x_j|^alpha / max|W_j|^(1 - alpha)

with the maxima of input j over the calibration data and of row j over all weights that read it
(Xiao et al. 2023, "SmoothQuant"). An activation has one 8-bit scale for all its channels, a weight
one for each column: a few loud channels cost the others most of their codes. alpha is searched for
each input for the least error of the layers' outputs when both are rounded, and not to smooth at
all is one of the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from compile.artifact import Artifact, Made
from compile.data import DataSource
from quantize.absorb import Group
from quantize.calibrate import Range
from quantize.gram import InputStatistics, squared_error
from quantize.int8 import weight_bits
from quantize.migration import Scaling, make_scaled
from quantize.passes import Activations, Smooth
from quantize.rounding.channels import channel_codes

ALPHAS = tuple(float(alpha) for alpha in np.round(np.arange(1, 21) / 20, 2))
"""Up to 1, where all channels of an activation come to the same range."""


def make_smooth(
    source: Artifact,
    asked: Smooth,
    folder: Path,
    data: DataSource,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass (``quantize/migration.py``)."""

    def search(group: Group, seen: InputStatistics) -> Scaling:
        weights = [layer.values() for layer in group.layers]
        return search_smoothing(weights, seen, asked.activations, bits)

    bits = weight_bits()
    return make_scaled(source, asked, folder, data, progress, search)


def search_smoothing(
    weights: Sequence[np.ndarray],
    seen: InputStatistics,
    activations: Activations = "u8",
    bits: int = 8,
    alphas: Sequence[float] = ALPHAS,
) -> Scaling:
    """The scales under which the (K, N) ``weights``, which share an input, lose least in INT8."""
    unscaled = np.ones(len(seen.low), np.float32)
    before = int8_error(weights, seen, unscaled, activations, bits)
    best = Scaling(unscaled, None, before, before)
    for alpha in alphas:
        scales = scales_of(weights, seen, alpha)
        error = int8_error(weights, seen, scales, activations, bits)
        if error < best.error:
            best = Scaling(scales, alpha, error, before)
    return best


def scales_of(weights: Sequence[np.ndarray], seen: InputStatistics, alpha: float) -> np.ndarray:
    """float32 (K,), of geometric mean 1; 1 for an input that was never seen or is never read."""
    reach = np.maximum(np.abs(seen.low), np.abs(seen.high)).astype(np.float64)
    rows = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0).astype(np.float64)
    known = (reach > 0) & (rows > 0)
    scales = np.ones(len(reach))
    scales[known] = reach[known] ** alpha / rows[known] ** (1 - alpha)
    if known.any():
        scales[known] /= np.exp(np.log(scales[known]).mean())
    return scales.astype(np.float32)


def int8_error(
    weights: Sequence[np.ndarray],
    seen: InputStatistics,
    scales: np.ndarray,
    activations: Activations = "u8",
    bits: int = 8,
) -> float:
    """Squared error of the outputs over their power, with s W in 8 bits (``bits``) by column and
    x / s in 8 bits over its whole range.

    A rounded activation is off by up to half a step either way, evenly and each channel by itself:
    step^2 / 12 of each, times the power of the weights that read it.
    """
    span = Range(float((seen.low / scales).min()), float((seen.high / scales).max()))
    noise = float(span.grid(activations)[0]) ** 2 / 12
    column = scales[:, None]
    power = lost = 0.0
    for weight in weights:
        scaled = weight * column
        codes, steps = channel_codes(scaled, bits)
        lost += squared_error(codes * steps / column - weight, seen.gram)
        lost += noise * float(np.square(scaled, dtype=np.float64).sum())
        power += squared_error(weight, seen.gram)
    return lost / power if power else 0.0
