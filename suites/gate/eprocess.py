"""Evidence that may be looked at after every pair: the fortune of a gambler.

A p-value computed again and again will be small some time, whatever the truth. An e-process may be
looked at for ever: under the null its value exceeds ``1 / alpha`` at any time with probability
``alpha`` at most (Ville 1939), so a gate can stop as soon as it knows.
"""

from __future__ import annotations

import numpy as np
from scipy import special

STAKES = np.sqrt((np.arange(64) + 0.5) / 64)
"""Shares of a fortune that are staked on every pair, one gambler each. Their density rises towards
one: a difference that is worth noticing is larger than the noise, and rewards the bold."""


def log_evidence(differences: np.ndarray, limit: float) -> np.ndarray:
    """Log of the evidence that ``differences``, shape ``(n,)``, lie above zero, after each of them.

    With ``x = clip(differences / limit, -1, 1)`` and a mixture over stakes ``s`` in (0, 1)

        E = mean over s of  product over pairs of (1 + s x)

    Each gambler stakes ``s`` of what he has on ``x`` being positive. As long as the mean of ``x``,
    given all that came before, is zero or less, his fortune is a supermartingale from 1, and so is
    their mean (Shafer 2021, *Testing by betting*; Waudby-Smith & Ramdas 2024, *Estimating means of
    bounded random variables by betting*). That holds for differences symmetric about zero, or about
    anything below, however they are distributed and however unlike one another they are: clipping
    is odd and monotone. No variance is estimated and none is assumed to exist; an outlier counts no
    more than ``limit``, which should be the difference that is to be noticed.

    Raises ValueError for differences that are not finite or a ``limit`` that is not positive.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("evidence needs a one-dimensional series of finite differences")
    if not (limit > 0 and np.isfinite(limit)):
        raise ValueError(f"the limit must be positive, not {limit}")
    won = np.clip(values / limit, -1, 1)
    fortunes = np.log1p(np.outer(STAKES, won)).cumsum(axis=1)
    return special.logsumexp(fortunes, axis=0) - np.log(len(STAKES))
