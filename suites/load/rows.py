"""The columns of a load cell: ``reports/columns/load.py`` says what each is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from suites.load.table import LoadTable, SloTable
from suites.measure.load.capacity import Capacity
from suites.measure.load.figures import Figures
from suites.measure.load.saturation import Saturation
from suites.measure.load.slo import Slo
from suites.measure.load.trace import Trace
from suites.measure.measurement import Samples
from suites.measure.quantiles import Insufficient, QuantileEstimate


def slo_of(table: SloTable) -> Slo:
    return Slo(round(table.e2el_ms * 1e6), table.share)


def asked(load: LoadTable) -> dict[str, Any]:
    """What the suite says of the load: in every row of its cells, whatever happened."""
    return {
        "load": load.kind,
        "burstiness": None if load.kind == "closed" else load.shape,
        "concurrency": load.concurrency,
        "slots": load.slots,
        "slo": None if load.slo is None else str(slo_of(load.slo)),
        "rate_share": load.rate_share,
        "requested_requests_per_s": load.rate,
    }


def rates(found: Saturation) -> dict[str, Any]:
    """Of an open loop, saturated or not."""
    return {
        "offered_requests_per_s": found.offered_per_s,
        "achieved_requests_per_s": found.achieved_per_s,
        "achieved_over_offered": found.ratio,
        "backlog_requests": found.backlog,
        "occupied_share": found.occupied,
        "offered_load": found.load,
        "requests_given_up": found.given_up,
    }


def throughput(found: Figures, slo: Slo | None) -> dict[str, Any]:
    """What is known of a saturated session too: how much it serves."""
    row: dict[str, Any] = {
        "request_throughput_per_s": found.request_throughput,
        "request_goodput_per_s": found.request_goodput,
        "utilisation": found.utilisation,
        "max_concurrent_requests": found.max_concurrent,
        "requests": found.completed,
    }
    if slo is not None and found.good is not None:
        row["slo_met_share"] = found.good / found.kept
    return row


def latencies(found: Figures) -> dict[str, Any]:
    """The times of requests, of a session that is not saturated."""
    means = {"e2el_mean": found.e2el_mean, "e2el_std": found.e2el_std}
    means["queue_mean"] = found.queue_mean
    row: dict[str, Any] = {
        f"{name}_ms": None if value is None else value / 1e6 for name, value in means.items()
    }
    insufficient = []
    kinds = (("e2el", found.e2el, (0.5, 0.9, 0.99)), ("service", found.service, (0.5, 0.99)))
    for kind, estimates, levels in kinds:
        for p in levels:
            name = f"{kind}_p{100 * p:.0f}"
            estimate = estimates[p]
            if isinstance(estimate, Insufficient):
                insufficient.append(name)
            else:
                row |= _interval(name, estimate)
    row["insufficient"] = ", ".join(insufficient) or None
    row["effective_requests"] = found.e2el[0.5].effective
    return row


def _interval(name: str, estimate: QuantileEstimate) -> dict[str, float]:
    return {
        f"{name}_ms": estimate.value / 1e6,
        f"{name}_low_ms": estimate.low / 1e6,
        f"{name}_high_ms": estimate.high / 1e6,
    }


def capacity(found: Capacity) -> dict[str, Any]:
    return {
        "capacity_requests_per_s": found.met,
        "capacity_missed_requests_per_s": found.missed,
        "capacity_probes": {
            f"{rate:.6g}": [
                judged.verdict,
                judged.requests,
                judged.misses,
                round(judged.effective, 1),
                round(judged.worth, 1),
                round(judged.low, 5),
                round(judged.high, 5),
            ]
            for rate, judged in found.judged.items()
        },
    }


def samples(
    traces: Sequence[Trace], rates: Sequence[float | None], timed: Samples
) -> dict[str, np.ndarray]:
    """The columns of ``samples.parquet``: the calls of the served requests, ``timed`` in the same
    order; what was given up has none. ``rates`` are what each episode was offered."""
    empty = np.empty(0, np.int64)
    kept = [trace.kept[trace.served] for trace in traces]
    columns = {
        "latency_ns": timed.nanoseconds,
        "arrival_ns": np.concatenate([empty, *(t.arrival[t.served] for t in traces)]),
        "start_ns": np.concatenate([empty, *(t.start[t.served] for t in traces)]),
        "block": timed.block,
        "phase": np.where(np.concatenate([np.empty(0, bool), *kept]), "sample", "warmup"),
        "disturbed": timed.disturbed,
    }
    if None not in rates:
        served = [int(trace.served.sum()) for trace in traces]
        columns["requested_requests_per_s"] = np.repeat(np.array(rates, np.float64), served)
    if timed.cause is not None:
        columns["cause"] = np.array([word or None for word in timed.cause], object)
    return columns
