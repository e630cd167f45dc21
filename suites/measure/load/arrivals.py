"""When requests are meant to arrive: a renewal process with gamma gaps, drawn from a seed.

The parameters are those of ``vllm bench serve`` (``--request-rate``, ``--burstiness``): gaps have
the mean ``1 / rate`` whatever the shape, and the coefficient of variation ``1 / sqrt(shape)``. It
differs in one thing: vLLM stretches the whole schedule so that it ends exactly at ``n / rate``.
That takes the counts of a Poisson process their noise, and is left out here; the rate that was
really offered is reported instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compile.errors import InputError

MOST_REQUESTS = 1_000_000
"""Of one episode; their times are held at once."""


def arrivals(
    rate: float,
    burstiness: float,
    seed: int | Sequence[int],
    *,
    seconds: float | None = None,
    requests: int | None = None,
) -> np.ndarray:
    """Arrival times in int64 nanoseconds from the beginning, rising; shape ``(n,)``.

    ``rate`` is in requests a second, ``burstiness`` the gamma distribution's shape: 1 makes a
    Poisson process, less makes bursts, infinity an even beat. Either ``requests`` many, or all
    that fall into ``seconds``, which may be none. The first gap counts too: nothing arrives at
    zero. Raises ValueError for a rate or shape that is not positive, and InputError for a schedule
    of more than ``MOST_REQUESTS``.
    """
    if not (rate > 0 and burstiness > 0) or (seconds is None) == (requests is None):
        raise ValueError(
            f"arrivals need a positive rate and burstiness, not {rate:g} and {burstiness:g}, and "
            "either seconds or requests"
        )
    expected = rate * seconds if seconds is not None else float(requests or 0)
    if expected > MOST_REQUESTS:
        raise InputError(
            f"{expected:,.0f} requests in one episode are more than {MOST_REQUESTS:,}; give a "
            "lower rate, or fewer seconds"
        )
    random = np.random.default_rng(seed)

    def gaps(n: int) -> np.ndarray:
        if np.isinf(burstiness):
            return np.full(n, 1 / rate)
        return random.gamma(burstiness, 1 / (rate * burstiness), n)

    if requests is not None:
        times = np.cumsum(gaps(requests))
    else:
        assert seconds is not None
        # Drawn in blocks of one size, so that a longer schedule begins like a shorter one.
        times = np.cumsum(gaps(256))
        while times[-1] < seconds:
            times = np.concatenate([times, times[-1] + np.cumsum(gaps(256))])
        times = times[times < seconds]
    return np.round(times * 1e9).astype(np.int64)
