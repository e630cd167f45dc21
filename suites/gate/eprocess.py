"""Evidence that may be looked at after every pair: a self-normalised e-process.

A p-value computed again and again will be small some time, whatever the truth. An e-process may be
looked at for ever: under the null its value exceeds ``1 / alpha`` at any time with probability
``alpha`` at most (Ville 1939), so a gate can stop as soon as it knows.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def log_evidence(differences: np.ndarray, rho: float) -> float:
    """Log of the evidence that ``differences``, shape ``(n,)``, lie above zero; 0 for none.

    With ``S`` their sum and ``V`` the sum of their squares

        E = 2 sqrt(rho / (rho + V)) exp(S^2 / (2 (rho + V))) Phi(S / sqrt(rho + V))

    which is ``exp(l S - l^2 V / 2)``, mixed over ``l > 0`` with a half-normal of variance
    ``1 / rho``. For independent differences that are symmetric about zero each of these is a
    supermartingale, however the differences are distributed and however unlike one another they
    are (de la Pena 1999, *A general class of exponential inequalities for martingales and ratios*,
    lemma 6.1), and so it is when they are symmetric about something below zero. Mixtures: Howard,
    Ramdas, McAuliffe & Sekhon 2021, *Time-uniform, nonparametric, nonasymptotic confidence
    sequences*, proposition 5.

    No variance is estimated and none is assumed to exist. Raises ValueError for differences that
    are not finite or ``rho`` that is not positive.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("evidence needs a one-dimensional series of finite differences")
    if not (rho > 0 and math.isfinite(rho)):
        raise ValueError(f"rho must be positive, not {rho}")
    total, spread = float(values.sum()), rho + float(values @ values)
    # log_ndtr: far below zero Phi itself would round to nothing.
    return (
        math.log(2)
        + 0.5 * math.log(rho / spread)
        + total**2 / (2 * spread)
        + float(special.log_ndtr(total / math.sqrt(spread)))
    )


def best_rho(spread: float, gap: float, threshold: float) -> float:
    """The ``rho`` with which evidence of a ``gap`` is expected to reach ``1 / threshold`` soonest.

    ``spread`` is the standard deviation of the differences and has to be known beforehand, from a
    pilot: any constant is valid, only slower. The number of pairs is about
    ``n = 2 log(1 / threshold) (spread^2 + gap^2) / gap^2``; the mixture is narrowest around
    ``V = n (spread^2 + gap^2)`` when ``rho = V / (-W(-threshold^2 / e) - 1)`` with ``W`` the lower
    branch of Lambert's function (Howard et al. 2021, proposition 3).
    """
    if not (spread >= 0 and gap > 0 and 0 < threshold < 1):
        raise ValueError(f"no rho for spread {spread}, gap {gap} and threshold {threshold}")
    square = spread**2 + gap**2
    pairs = max(1.0, 2 * math.log(1 / threshold) * square / gap**2)
    return pairs * square / (-float(special.lambertw(-(threshold**2) / math.e, -1).real) - 1)
