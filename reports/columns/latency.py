"""How long a call takes, how many finish in a second, and how well it is known."""

from __future__ import annotations

from reports.columns.column import Column


def _quantile(percent: int, name: str) -> tuple[Column, ...]:
    start = f"latency_p{percent}"
    return (
        Column(
            f"{start}_ms",
            "float",
            "ms",
            f"{name} of one synchronised call, over all samples after warm-up, disturbed ones "
            "included, each process counting the same. Covers what the contract columns say. Null "
            "when the sample is too small, and for a load workload, which has e2el_ and service_ "
            "columns.",
        ),
        Column(
            f"{start}_low_ms",
            "float",
            "ms",
            f"Lower end of the two-sided 95 % interval of latency_p{percent}_ms. "
            "Of one process: an order statistic chosen by the effective sample size. Of several: "
            "Student's of the logarithms of their medians, which widens the order statistics of "
            "p90 and p99.",
        ),
        Column(
            f"{start}_high_ms",
            "float",
            "ms",
            f"Upper end of the two-sided 95 % interval of latency_p{percent}_ms.",
        ),
    )


LATENCY: tuple[Column, ...] = (
    *_quantile(50, "Median time"),
    *_quantile(90, "90th percentile of the time"),
    *_quantile(99, "99th percentile of the time"),
    Column(
        "insufficient",
        "string",
        "",
        "Quantiles that this sample cannot support, separated by commas (for example p99). "
        "Their columns are null.",
    ),
    Column("latency_min_ms", "float", "ms", "Fastest sample: a floor, not an expectation."),
    Column(
        "latency_mad_ms",
        "float",
        "ms",
        "Median absolute deviation of the samples from their median, each process counting the "
        "same, not scaled.",
    ),
    Column("samples", "int", "calls", "Timed calls after warm-up. One sample is one call."),
    Column(
        "effective_samples",
        "float",
        "calls",
        "Independent samples that the timed calls are worth, given their autocorrelation "
        "(effective sample size of the median).",
    ),
    Column(
        "processes",
        "int",
        "",
        "Fresh processes that made calls after their warm-up. The interval of one process's calls "
        "does not hold what differs from process to process; that of several does. Null in load "
        "workloads, which have one.",
    ),
    Column(
        "processes_unsteady",
        "int",
        "",
        "Of all the cell's processes, also those without calls after a warm-up, those in which it "
        "was not stationary. Null where there was one process.",
    ),
    Column(
        "processes_spread",
        "float",
        "",
        "Standard deviation of the logarithms of the processes' medians: about a share of the p50. "
        "Null where there was one process.",
    ),
    Column("warmup_calls", "int", "calls", "Calls discarded before the latency was steady."),
    Column("warmup_s", "float", "s", "Time spent in the discarded calls."),
    Column("looks", "int", "", "How often the stopping rule looked at the samples."),
    Column(
        "drift",
        "float",
        "",
        "Relative change of the median from the first to the last third of the samples; of several "
        "processes, the largest.",
    ),
    Column(
        "own_drift",
        "float",
        "",
        "What is left of the drift when what the machine did to all cells of a round is taken "
        "out. A cell that drifts by itself is not-stationary; a machine that drifts is not.",
    ),
    Column(
        "speedup",
        "float",
        "",
        "Median time of the fp32 build on the same runtime over this build's, from the rounds of "
        "one interleaved block that both were measured in; above 1 is faster.",
    ),
    Column("speedup_low", "float", "", "Lower end of the two-sided 95 % interval of speedup."),
    Column("speedup_high", "float", "", "Upper end of the two-sided 95 % interval of speedup."),
    Column(
        "compared",
        "json",
        "",
        "Id of another cell of the block -> [ratio, low, high]: this cell's median time over the "
        "other's with its 95 % interval, from the rounds in which both took turns. Known where the "
        "machine is too restless for either's own latency. Null outside of a measured block.",
    ),
)
THROUGHPUT: tuple[Column, ...] = (
    Column(
        "throughput_samples_per_s",
        "float",
        "examples/s",
        "Examples finished in a second, measured on its own with calls back to back.",
    ),
    Column(
        "throughput_tokens_per_s",
        "float",
        "tokens/s",
        "Tokens processed in a second (examples x sequence), from the same measurement.",
    ),
)
