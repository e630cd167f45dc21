"""How much accuracy a candidate lost, from the same examples scored with both models.

Both models answer the same questions, so most of the luck of the draw is common to them and
cancels. Only examples on which they differ carry information.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats


@dataclass(frozen=True)
class PairedDrop:
    """Mean of reference minus candidate, in the unit of the scores: positive is a loss."""

    drop: float
    low: float
    high: float
    """``low`` and ``high``: two-sided interval at ``confidence``."""
    upper: float
    """One-sided bound: the drop is below it with ``confidence``. Non-inferiority looks here."""
    confidence: float
    examples: int
    lost: int
    """Examples on which the candidate scored lower."""
    gained: int


def paired_interval(
    reference: np.ndarray,
    candidate: np.ndarray,
    confidence: float = 0.95,
    higher_is_better: bool = True,
) -> PairedDrop:
    """The mean drop from ``reference`` to ``candidate``, both of shape ``(examples,)``.

    Right-or-wrong scores (bool, or numbers that are all 0 or 1) get Tango's score interval;
    others, for example the negative log-likelihood of an example with ``higher_is_better=False``,
    Student's interval of the mean difference, which rests on the central limit theorem.

    The examples must be independent: give one score a document, not one a token of it. Raises
    ValueError for unlike shapes, fewer than two examples, or scores that are not finite.
    """
    a, b = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise ValueError(
            f"paired scores need two equal shapes (examples,) of at least 2, "
            f"not {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("paired scores must be finite")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), not {confidence}")
    difference = a - b if higher_is_better else b - a
    lost, gained = int((difference > 0).sum()), int((difference < 0).sum())
    n = difference.size
    binary = np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all()
    if binary:
        low, high = tango_interval(lost, gained, n, confidence)
        # The end of a two-sided interval with twice the error is the one-sided bound.
        upper = tango_interval(lost, gained, n, max(2 * confidence - 1, 0.0))[1]
    else:
        mean, error = float(difference.mean()), float(stats.sem(difference))
        two, one = stats.t.ppf([(1 + confidence) / 2, confidence], n - 1)
        low, high, upper = mean - two * error, mean + two * error, mean + one * error
    return PairedDrop(
        drop=float(difference.mean()),
        low=float(low),
        high=float(high),
        upper=float(upper),
        confidence=confidence,
        examples=n,
        lost=lost,
        gained=gained,
    )


def weighted_interval(
    difference: np.ndarray, weights: np.ndarray, confidence: float = 0.95
) -> PairedDrop:
    """The drop ``r = sum(difference) / sum(weights)`` of examples that weigh differently (tokens,
    bits), both of shape ``(examples,)``; a positive difference is a loss.

    The examples are the independent units, so the variance is that of a ratio estimate (Cochran,
    *Sampling Techniques*, 3rd ed., 6.3): ``n / (n - 1) sum((d - r w)^2) / sum(w)^2``, with
    Student's quantiles. However small it is, a bound lies ``-ln(1 - confidence) / n`` beside ``r``
    at least: the bound on a share of which no case was seen (the rule of three). Raises ValueError
    for unlike shapes, fewer than two examples, or numbers that are not finite.
    """
    d, w = np.asarray(difference, np.float64), np.asarray(weights, np.float64)
    if d.shape != w.shape or d.ndim != 1 or d.size < 2:
        raise ValueError(f"a drop needs two equal shapes of at least 2, not {d.shape}, {w.shape}")
    if not (np.isfinite(d).all() and np.isfinite(w).all() and w.sum() > 0):
        raise ValueError("differences and weights must be finite, and weigh something")
    n, total = d.size, float(w.sum())
    drop = float(d.sum()) / total
    residual = d - drop * w
    error = math.sqrt(n / (n - 1) * float(residual @ residual)) / total
    two, one = stats.t.ppf([(1 + confidence) / 2, confidence], n - 1)
    floors = -math.log((1 - confidence) / 2) / n, -math.log(1 - confidence) / n
    both_sides, one_side = max(two * error, floors[0]), max(one * error, floors[1])
    return PairedDrop(
        drop=drop,
        low=drop - both_sides,
        high=drop + both_sides,
        upper=drop + one_side,
        confidence=confidence,
        examples=n,
        lost=int((d > 0).sum()),
        gained=int((d < 0).sum()),
    )


def tango_interval(lost: int, gained: int, n: int, confidence: float) -> tuple[float, float]:
    """Score interval of ``(lost - gained) / n``, a difference of paired proportions.

    Tango (1998), *Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design*, Statistics in Medicine 17, 891-908. Its ends are the ``delta`` with

        (lost - gained - n delta) / sqrt(n (2 q + delta (1 - delta))) = +-z

    where ``q`` is the share of gained examples that is most likely if the difference is ``delta``:
    ``q = (sqrt(B^2 - 4 A C) - B) / (2 A)``, ``A = 2n``,
    ``B = -lost - gained + (2n - lost + gained) delta``, ``C = -gained delta (1 - delta)``.
    It holds where the Wald interval collapses: no discordant pairs give +-z^2 / (n + z^2).
    """
    z = float(stats.norm.ppf((1 + confidence) / 2))
    estimate = (lost - gained) / n

    def score(delta: float) -> float:
        a = 2 * n
        b = -lost - gained + (2 * n - lost + gained) * delta
        c = -gained * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * q + delta * (1 - delta))
        distance = lost - gained - n * delta
        if variance > 0:
            return distance / math.sqrt(variance)
        return math.copysign(math.inf, distance) if distance else 0.0

    def end(limit: float, target: float) -> float:
        if estimate == limit or z == 0:
            return estimate
        # At the limits the score is infinite, which brentq cannot take.
        limit *= 1 - 1e-9
        return float(optimize.brentq(lambda delta: score(delta) - target, estimate, limit))

    return end(-1.0, z), end(1.0, -z)
