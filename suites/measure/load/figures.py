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
from suites.measure.load.trace import Trace
from suites.measure.quantiles import Insufficient, QuantileEstimate, quantile_interval

LEVELS = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Figures:
    """Of all episodes of a cell; times in nanoseconds, of the kept requests."""

    completed: int
    """Kept requests that were answered."""
    good: int | None
    """Those of them within the SLO; None without one."""
    request_throughput: float
    """Answers a second, ramp-up included: ``completed / duration``, where an episode's duration
    ends with its last answer, and no earlier than its arrivals do."""
    request_goodput: float | None
    """Answers within the SLO a second of the same; None without one."""
    e2el: dict[float, QuantileEstimate | Insufficient]
    e2el_mean: float
    e2el_std: float
    """Standard deviation of the population, as vLLM has it."""
    queue_mean: float
    service: dict[float, QuantileEstimate | Insufficient]
    utilisation: float
    """Share of the slots' time spent in calls."""
    max_concurrent: int


def figures(traces: Sequence[Trace], slo: Slo | None, confidence: float) -> Figures | None:
    """None where no kept request was completed."""
    served = [trace for trace in traces if trace.completed.any()]
    if not served:
        return None
    e2el, queue, service = (
        np.concatenate([getattr(trace, name) for trace in served])
        for name in ("e2el_ns", "queue_ns", "service_ns")
    )
    duration_s = sum(max(int(trace.finish.max()), trace.end_ns) for trace in served) / 1e9
    answers = np.concatenate([(trace.finish - trace.arrival)[trace.served] for trace in served])
    return Figures(
        completed=len(e2el),
        good=None if slo is None else int((e2el <= slo.e2el_ns).sum()),
        request_throughput=len(answers) / duration_s,
        request_goodput=None if slo is None else int((answers <= slo.e2el_ns).sum()) / duration_s,
        e2el={p: quantile_interval(e2el, p, confidence) for p in LEVELS},
        e2el_mean=float(e2el.mean()),
        e2el_std=float(e2el.std()),
        queue_mean=float(queue.mean()),
        service={p: quantile_interval(service, p, confidence) for p in LEVELS},
        utilisation=sum(trace.busy_ns() for trace in traces)
        / sum(trace.kept_ns * trace.slots for trace in traces),
        max_concurrent=max(trace.max_concurrent for trace in traces),
    )
