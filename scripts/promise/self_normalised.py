"""The gate's other e-process, which it does not use: what the two need is put side by side."""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def log_evidence(differences: np.ndarray, rho: float) -> np.ndarray:
    """Log of the evidence that ``differences``, shape ``(n,)``, lie above zero, after each of them.

    With ``S`` their sum and ``V`` the sum of their squares

        E = 2 sqrt(rho / (rho + V)) exp(S^2 / (2 (rho + V))) Phi(S / sqrt(rho + V))

    which is ``exp(l S - l^2 V / 2)``, mixed over ``l > 0`` with a half-normal of variance
    ``1 / rho`` (de la Pena 1999, lemma 6.1; Howard, Ramdas, McAuliffe & Sekhon 2021, proposition
    5). Valid for what is symmetric about zero, or about anything below.
    """
    total, spread = np.cumsum(differences), rho + np.cumsum(differences**2)
    return (
        math.log(2)
        + 0.5 * np.log(rho / spread)
        + total**2 / (2 * spread)
        + special.log_ndtr(total / np.sqrt(spread))
    )


def best_rho(spread: float, gap: float, threshold: float) -> float:
    """The ``rho`` with which evidence of a ``gap`` is expected to reach ``1 / threshold`` soonest,
    if the differences' standard deviation is known to be ``spread``.

    The number of pairs is about ``n = 2 log(1 / threshold) (spread^2 + gap^2) / gap^2``; the
    mixture is narrowest around ``V = n (spread^2 + gap^2)`` when ``rho = V / (-W(-threshold^2 / e)
    - 1)`` with ``W`` the lower branch of Lambert's function (Howard et al. 2021, proposition 3).
    """
    square = spread**2 + gap**2
    pairs = 2 * math.log(1 / threshold) * square / gap**2
    branch = float(special.lambertw(-(threshold**2) / math.e, -1).real)
    return pairs * square / (-branch - 1)
