"""Scores of single examples, and what a set of them says about the smallest drop it can show."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

Scores = dict[str, np.ndarray]
"""Columns of per-example results, each ``(examples,)``."""

USUAL_FLIPS = 0.02
"""Share of predictions that become right or wrong under eight-bit quantization, as a rule."""


def prior_resolution(examples: int, spread: float, confidence: float = 0.95) -> float:
    """The drop that a paired comparison of ``examples`` can resolve, before it is measured.

    The one-sided bound of a mean difference lies ``z * spread / sqrt(n)`` beside it, where
    ``spread`` is the standard deviation of the examples' paired differences; for accuracy that
    is ``sqrt(flips)``, the root of the share of examples that become right or wrong. However
    small the spread, nothing below ``-ln(1 - confidence) / n`` is resolved: the bound on a share
    of which no case was seen (the rule of three).
    """
    z = NormalDist().inv_cdf(confidence)
    return max(z * spread / math.sqrt(examples), -math.log(1 - confidence) / examples)
