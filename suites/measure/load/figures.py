"""The figures of a load cell: names and formulas of ``vllm bench serve``.

(``vllm/benchmarks/serve.py``, ``calculate_metrics``.) Three things differ, on purpose. There
``e2el`` begins when the request is sent, which a client that is late does late; here it begins when
the request was meant to arrive. Percentiles have intervals here. And an episode's first part is
discarded from every time; the throughputs, like vLLM's, are of whole episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from suites.measure.load.slo import Slo
from suites.measure.load.trace import Trace, censored
from suites.measure.quantiles import (
    TRUSTED_EFFECTIVE,
    Insufficient,
    QuantileEstimate,
    effective_samples,
    needed_samples,
    quantile_interval,
)

LEVELS = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Figures:
    """Of all episodes of a cell; times in nanoseconds, of the kept requests."""

    kept: int
    """Requests that arrived after the ramp-up."""
    completed: int
    """Those of them that were answered."""
    good: int | None
    """Kept requests that were answered within the SLO; None without one."""
    request_throughput: float
    """Answers a second, ramp-up included: ``completed / duration``, where an episode's duration
    ends with its last answer, and no earlier than its arrivals do."""
    request_goodput: float | None
    """Answers within the SLO a second of the same; None without one."""
    e2el: dict[float, QuantileEstimate | Insufficient]
    """Requests that were given up count as longer than any: a level that reaches them is
    insufficient."""
    e2el_mean: float | None
    """None, like the next two, where a kept request was given up: its time is not known."""
    e2el_std: float | None
    """Standard deviation of the population, as vLLM has it."""
    queue_mean: float | None
    service: dict[float, QuantileEstimate | Insufficient]
    utilisation: float
    """Share of the slots' time spent in calls."""
    max_concurrent: int


@dataclass(frozen=True)
class Queue:
    """What decides how long an open loop's queue remembers."""

    load: float
    """Offered rate times the mean call, over the slots."""
    burstiness: float
    """Shape of the gaps; their squared coefficient of variation is its inverse."""

    def worth(self, service: np.ndarray) -> float:
        """Independent requests that ``service`` many (their calls' times) are worth at most.

        A series shorter than its own memory cannot show how long that is: of an M/D/1 queue at a
        load of 0.9, intervals of p90 from 2,500 requests that trusted the series alone held in 76 %
        of the cells that had one (``scripts/queues.py``). So what is known of queues bounds it. The
        asymptotic variance of the number in an M/M/1 queue is that of ``1 / (2 T)`` independent
        looks in a service time, with ``2 T = 2 (1 + u) / (1 - u)^2`` at the load ``u``; in heavy
        traffic it grows with the variability of gaps and calls, ``(ca^2 + cs^2) / 2`` (Whitt 1989,
        *Planning queueing simulations*).
        """
        if self.load >= 1:
            return 1.0
        calls = float(service.std() / service.mean()) ** 2 if service.mean() > 0 else 0.0
        memory = (1 / self.burstiness + calls) * (1 + self.load) / (1 - self.load) ** 2
        return max(1.0, len(service) / max(1.0, self.load * memory))


def _waiting_quantile(
    e2el: np.ndarray,
    answered: np.ndarray,
    p: float,
    confidence: float,
    worth: float | None,
) -> QuantileEstimate | Insufficient:
    """``quantile_interval`` on the requests that both the series and its queue (``worth``) allow.

    ``answered`` is bool, of the same requests: the others are known to be longer and no more, so
    that an interval that ends among them has no end.
    """
    effective = None
    if worth is not None:
        effective = min(effective_samples(e2el, p), worth)
        if effective < min(TRUSTED_EFFECTIVE, len(e2el) / 2):
            needed = max(needed_samples(p, confidence), TRUSTED_EFFECTIVE)
            return Insufficient(p, confidence, effective, needed)
    found = quantile_interval(e2el, p, confidence, effective=effective)
    if isinstance(found, QuantileEstimate) and found.high > e2el[answered].max():
        return Insufficient(p, confidence, found.effective, needed_samples(p, confidence))
    return found


def figures(
    traces: Sequence[Trace],
    slo: Slo | None,
    confidence: float,
    queue: Queue | None = None,
) -> Figures | None:
    """None where no kept request was completed. ``queue`` is what is known of an open loop's."""
    served = [trace for trace in traces if trace.completed.any()]
    if not served:
        return None
    e2el, waited, service = (
        np.concatenate([getattr(trace, name) for trace in served])
        for name in ("e2el_ns", "queue_ns", "service_ns")
    )
    series = censored(traces)
    answered = np.concatenate([trace.served[trace.kept] for trace in traces])
    all_answered = bool(answered.all())
    worth = None if queue is None else queue.worth(service)
    # Of all episodes: one that brought nothing after its ramp-up took its time nevertheless.
    duration_s = sum(max(int(trace.finish.max(initial=0)), trace.end_ns) for trace in traces) / 1e9
    answers = np.concatenate([(trace.finish - trace.arrival)[trace.served] for trace in traces])
    return Figures(
        kept=len(series),
        completed=len(e2el),
        good=None if slo is None else int((e2el <= slo.e2el_ns).sum()),
        request_throughput=len(answers) / duration_s,
        request_goodput=None if slo is None else int((answers <= slo.e2el_ns).sum()) / duration_s,
        e2el={p: _waiting_quantile(series, answered, p, confidence, worth) for p in LEVELS},
        e2el_mean=float(e2el.mean()) if all_answered else None,
        e2el_std=float(e2el.std()) if all_answered else None,
        queue_mean=float(waited.mean()) if all_answered else None,
        service={p: quantile_interval(service, p, confidence) for p in LEVELS},
        utilisation=sum(trace.busy_ns() for trace in traces)
        / sum(trace.kept_ns * trace.slots for trace in traces),
        max_concurrent=max(trace.max_concurrent for trace in traces),
    )
