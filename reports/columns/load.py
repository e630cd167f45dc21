"""Requests that arrive by themselves: what was offered, what was achieved, how long each took.

Names and formulas of ``vllm bench serve``, with ``e2el`` counted from the intended arrival. Times
are of the requests after each episode's ramp-up.
"""

from __future__ import annotations

from reports.columns.column import Column


def _quantile(kind: str, percent: int, what: str) -> tuple[Column, ...]:
    start = f"{kind}_p{percent}"
    name = "Median" if percent == 50 else f"{percent}th percentile"
    return (
        Column(f"{start}_ms", "float", "ms", f"{name} of {what}. Null where it is insufficient."),
        Column(
            f"{start}_low_ms",
            "float",
            "ms",
            f"Lower end of the two-sided 95 % interval of {start}_ms, on effective samples.",
        ),
        Column(
            f"{start}_high_ms",
            "float",
            "ms",
            f"Upper end of the two-sided 95 % interval of {start}_ms.",
        ),
    )


_E2EL = (
    "the time from a request's intended arrival to its answer, waiting included (vLLM's e2el, "
    "which begins when the request is sent). Null for a saturated session"
)

LOAD: tuple[Column, ...] = (
    Column(
        "load",
        "string",
        "",
        "open (requests arrive at a rate), closed (clients send when answered) or capacity (search "
        "for the highest rate that keeps the SLO). Null for calls made one after the other.",
    ),
    Column("burstiness", "float", "", "Shape of the gaps' gamma distribution; 1 is Poisson."),
    Column("concurrency", "int", "clients", "Clients of a closed loop."),
    Column("slots", "int", "calls", "Calls that the session took at once."),
    Column("slo", "string", "", "The objective: what share of requests, and within what time."),
    Column(
        "rate_share",
        "float",
        "share",
        "The open loop's rate as the suite gave it, where it is a share of "
        "back_to_back_requests_per_s.",
    ),
    Column(
        "back_to_back_requests_per_s",
        "float",
        "requests/s",
        "What the session finished just before with its slots never empty: what a rate_share is a "
        "share of, and where a capacity search begins.",
    ),
    Column(
        "requested_requests_per_s",
        "float",
        "requests/s",
        "The rate of an open loop (vLLM's request_rate), as the suite gave it or as settled from "
        "its rate_share.",
    ),
    Column(
        "offered_requests_per_s",
        "float",
        "requests/s",
        "Requests that arrived in a second, as the schedule was realised. Of a capacity search: at "
        "capacity_requests_per_s.",
    ),
    Column(
        "achieved_requests_per_s",
        "float",
        "requests/s",
        "Answers finished in a second of the time in which requests arrived.",
    ),
    Column(
        "achieved_over_offered",
        "float",
        "",
        "The two rates' quotient: below 1 the backlog grew. Null where nothing arrived.",
    ),
    Column(
        "occupied_share",
        "float",
        "share",
        "Share of the time in which no slot was free for want of a request. From 0.98 on, with a "
        "backlog that grew or was given up, the session is saturated and the row not-stationary.",
    ),
    Column(
        "offered_load",
        "float",
        "",
        "The requested rate times the mean call, over the slots: from 1 on the session is "
        "saturated whatever a short schedule happened to bring.",
    ),
    Column(
        "backlog_requests",
        "int",
        "requests",
        "Most unanswered requests at the end of an episode's arrivals.",
    ),
    Column(
        "requests_given_up",
        "int",
        "requests",
        "Requests that were not begun by the episode's limit: half of its length, twice the SLO's "
        "time or 20 mean calls after its last arrival. Their times are not known: they miss the "
        "SLO, e2el quantiles count them as longer than any, and means stay empty.",
    ),
    Column("requests", "int", "requests", "Completed requests that arrived after the ramp-up."),
    Column("episodes", "int", "", "Turns of the cell, each of which begins with an empty queue."),
    Column(
        "effective_requests",
        "float",
        "requests",
        "Independent requests that they are worth for e2el_p50_ms: those that wait in one queue "
        "wait alike.",
    ),
    Column(
        "request_throughput_per_s",
        "float",
        "requests/s",
        "Answers over the duration of whole episodes, each from its beginning to its last answer "
        "or, if that is later, its arrivals' end (vLLM's request_throughput, to the last answer).",
    ),
    Column(
        "request_goodput_per_s",
        "float",
        "requests/s",
        "Answers within the SLO's time over the same duration (vLLM's request_goodput).",
    ),
    Column(
        "slo_met_share",
        "float",
        "share",
        "Share of the requests after the ramp-up that were answered within that time; one that was "
        "given up is a miss.",
    ),
    *_quantile("e2el", 50, _E2EL),
    *_quantile("e2el", 90, _E2EL),
    *_quantile("e2el", 99, _E2EL),
    Column("e2el_mean_ms", "float", "ms", "Mean of that time (vLLM's mean_e2el_ms)."),
    Column(
        "e2el_std_ms",
        "float",
        "ms",
        "Its standard deviation over the requests (vLLM's std_e2el_ms).",
    ),
    Column(
        "queue_mean_ms",
        "float",
        "ms",
        "Mean time from intended arrival to the beginning of the call.",
    ),
    *_quantile("service", 50, "the call alone, without waiting"),
    *_quantile("service", 99, "the call alone, without waiting"),
    Column(
        "utilisation",
        "float",
        "share",
        "Share of the slots' time that was spent in calls while requests arrived.",
    ),
    Column(
        "max_concurrent_requests",
        "int",
        "requests",
        "Most requests in the system at one moment, waiting or served. Not vLLM's figure of this "
        "name, which counts the requests that touch a bucket of one second.",
    ),
    Column(
        "capacity_requests_per_s",
        "float",
        "requests/s",
        "Highest rate shown to keep the SLO: one-sided Clopper-Pearson bound of the share of "
        "misses, on effective requests, the risk of 5 % shared among the search's episodes. The "
        "row's e2el figures are those at this rate. Null where the SLO was met at no offered rate: "
        "the row is not-stationary then.",
    ),
    Column(
        "capacity_missed_requests_per_s",
        "float",
        "requests/s",
        "Lowest rate shown to miss it. The capacity lies between the two.",
    ),
    Column(
        "capacity_probes",
        "json",
        "",
        "Rate -> [verdict, requests, misses, effective requests by their series and by their queue "
        "as well, lower and upper bound of the share of misses on the one and on the other], in "
        "the order of the search.",
    ),
)
