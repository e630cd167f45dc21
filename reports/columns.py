"""Every column of a row, declared once: its name, type, unit and meaning.

The terminal, the report's tooltips, the Parquet files and ``docs/reports.md`` all read it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

STATUSES = (
    "ok",
    "unsupported",
    "incorrect",
    "out-of-memory",
    "timeout",
    "not-stationary",
    "error",
)
AXES = ("model", "recipe", "runtime", "attention", "workload", "device")
CONTRACT = (
    "contract_clock",
    "contract_copies",
    "contract_synchronised",
    "contract_io_binding",
    "contract_threads",
    "contract_precision",
    "contract_start",
    "contract_allocator",
)
"""Columns that must agree before two latencies are ranked against each other."""

Dtype = Literal["string", "json", "int", "float", "bool"]


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: Dtype
    """``json`` is text that holds a JSON value: rows may give the value itself."""
    unit: str
    """Empty where the value has none."""
    doc: str

    @property
    def arrow(self) -> pa.Field:
        kind = {
            "string": pa.string(),
            "json": pa.string(),
            "int": pa.int64(),
            "float": pa.float64(),
            "bool": pa.bool_(),
        }[self.dtype]
        return pa.field(self.name, kind, metadata={"unit": self.unit, "doc": self.doc})


def _quantile(percent: int, name: str) -> tuple[Column, ...]:
    start = f"latency_p{percent}"
    return (
        Column(
            f"{start}_ms",
            "float",
            "ms",
            f"{name} of one synchronised call, over all samples after warm-up, disturbed ones "
            "included. Covers what the contract columns say. Null when the sample is too small.",
        ),
        Column(
            f"{start}_low_ms",
            "float",
            "ms",
            f"Lower end of the two-sided 95 % interval of latency_p{percent}_ms: an order "
            "statistic chosen by the effective sample size.",
        ),
        Column(
            f"{start}_high_ms",
            "float",
            "ms",
            f"Upper end of the two-sided 95 % interval of latency_p{percent}_ms.",
        ),
    )


COLUMNS: tuple[Column, ...] = (
    # Identity and axes.
    Column("cell_id", "string", "", "The cell's key, unique in its run, stable when resumed."),
    Column("suite", "string", "", "Name of the suite that the cell belongs to."),
    Column("model", "string", "", "Axis: the model, as the suite names it."),
    Column(
        "recipe", "string", "", "Axis: the passes that made the artifact, by the recipe's name."
    ),
    Column("runtime", "string", "", "Axis: what opened the artifact and ran it."),
    Column("attention", "string", "", "Axis: attention implementation that was asked for."),
    Column(
        "workload", "string", "", "Axis: what was asked of the session, by the workload's name."
    ),
    Column("device", "string", "", "Axis: cpu, or cuda:N."),
    Column(
        "status",
        "string",
        "",
        "How the cell ended: " + ", ".join(STATUSES) + ". Only ok rows are ranked.",
    ),
    Column("reason", "string", "", "Why the status is not ok, in one line. Null when it is."),
    # Workload.
    Column("batch", "int", "examples", "Examples fed in one call."),
    Column("sequence", "int", "tokens", "Tokens of each example fed in one call."),
    Column("past", "int", "tokens", "Tokens of each example already in the KV cache."),
    Column("kind", "string", "", "Kind of the workload: forward, prefill or decode."),
    # Latency.
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
        "Median absolute deviation of the samples from their median, not scaled.",
    ),
    Column("samples", "int", "calls", "Timed calls after warm-up. One sample is one call."),
    Column(
        "effective_samples",
        "float",
        "calls",
        "Independent samples that the timed calls are worth, given their autocorrelation "
        "(effective sample size of the median).",
    ),
    Column("warmup_calls", "int", "calls", "Calls discarded before the latency was steady."),
    Column("warmup_s", "float", "s", "Time spent in the discarded calls."),
    Column("looks", "int", "", "How often the stopping rule looked at the samples."),
    Column(
        "disturbed_samples",
        "int",
        "calls",
        "Samples during which the machine is known to have been disturbed. Flagged, not removed.",
    ),
    Column(
        "drift",
        "float",
        "",
        "Relative change of the median from the first to the last third of the samples.",
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
    # Throughput.
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
    # Size.
    Column("artifact_bytes", "int", "bytes", "All files of the artifact, its manifest aside."),
    Column("artifact_ratio", "float", "", "artifact_bytes over those of the fp32 artifact."),
    Column(
        "weights_ratio",
        "float",
        "",
        "Bytes of the weights that were quantized, scales and zero points included, over the "
        "bytes of the same weights in fp32.",
    ),
    # Memory.
    Column("memory_weights_bytes", "int", "bytes", "Weights as the session holds them."),
    Column("memory_resident_bytes", "int", "bytes", "Resident set of the worker after a call."),
    Column(
        "memory_baseline_bytes",
        "int",
        "bytes",
        "Resident set of the worker with its libraries imported, before the artifact was opened.",
    ),
    Column(
        "memory_peak_bytes",
        "int",
        "bytes",
        "Largest resident set of the worker during one call (on CUDA: largest use of the "
        "allocator).",
    ),
    Column("memory_reserved_bytes", "int", "bytes", "What the allocators hold after a call."),
    Column("memory_in_use_bytes", "int", "bytes", "What of it is handed out after a call."),
    Column("memory_waste_bytes", "int", "bytes", "memory_reserved_bytes - memory_in_use_bytes."),
    Column("memory_waste_ratio", "float", "", "memory_waste_bytes / memory_reserved_bytes."),
    Column(
        "memory_minimum_bytes",
        "int",
        "bytes",
        "Theoretical minimum: weights, inputs and outputs of one call of this workload.",
    ),
    Column(
        "page_faults_per_call",
        "float",
        "pages",
        "Pages that the kernel supplied in each call made back to back: memory that the process "
        "gave back and took again. Each costs about a microsecond.",
    ),
    # Accuracy.
    Column("task", "string", "", "The task whose test split was scored. Null without one."),
    Column("metric", "string", "", "Name of the task's metric."),
    Column("metric_value", "float", "", "The metric of this build on the test split."),
    Column("metric_reference", "float", "", "The metric of the fp32 torch model, same examples."),
    Column("accuracy", "float", "share", "Share of right answers, 0..1, where the task has one."),
    Column(
        "accuracy_drop",
        "float",
        "share",
        "How much worse than the reference on the task's metric, on the same examples: of "
        "accuracy, the difference (0.01 is a point); of bits per byte, the rise relative to the "
        "reference's. Positive is worse.",
    ),
    Column(
        "accuracy_drop_low",
        "float",
        "share",
        "Lower end of the two-sided 95 % paired interval of accuracy_drop.",
    ),
    Column(
        "accuracy_drop_high",
        "float",
        "share",
        "Upper end of the two-sided 95 % paired interval of accuracy_drop.",
    ),
    Column(
        "accuracy_drop_bound",
        "float",
        "share",
        "One-sided 95 % upper bound of accuracy_drop: what a release is judged by.",
    ),
    Column("examples", "int", "examples", "Test examples scored."),
    Column("flips", "int", "examples", "Examples that this build and the reference score unlike."),
    Column(
        "top1_agreement",
        "float",
        "share",
        "Share of predictions that equal the reference's, right or wrong.",
    ),
    Column(
        "fidelity_predictions",
        "int",
        "predictions",
        "Predictions of one call that were compared with the reference's before the clock started: "
        "what top1_agreement rests on where there is no task.",
    ),
    Column(
        "kl_divergence",
        "float",
        "nats",
        "Mean Kullback-Leibler divergence of this build's prediction from the reference's.",
    ),
    Column(
        "relative_error",
        "float",
        "",
        "Euclidean norm of the outputs' difference from the reference, over the reference's.",
    ),
    Column("perplexity", "float", "", "exp of the mean negative log likelihood of a token."),
    Column(
        "bits_per_byte",
        "float",
        "bits/byte",
        "Total negative log likelihood over the text's bytes.",
    ),
    # Correctness, checked before the clock starts.
    Column(
        "max_abs_error", "float", "", "Largest absolute difference from the reference's output."
    ),
    Column("max_rel_error", "float", "", "That difference over the reference's largest magnitude."),
    Column("tolerance", "float", "", "Largest error that the recipe declares as right."),
    # Fairness contract.
    Column("contract_clock", "string", "", "Clock: host (perf_counter_ns) or cuda-events."),
    Column(
        "contract_copies",
        "string",
        "",
        "Copies to and from the device: none (host arrays already), excluded or included.",
    ),
    Column("contract_synchronised", "bool", "", "The timed call returns with its result finished."),
    Column("contract_io_binding", "bool", "", "Inputs and outputs are bound before the clock."),
    Column("contract_threads", "int", "threads", "Intra-op threads, as verified."),
    Column("contract_precision", "string", "", "What arithmetic a float32 operation may use."),
    Column("contract_start", "string", "", "warm or cold."),
    Column(
        "contract_allocator",
        "string",
        "",
        "The worker's C allocator and the sizes from which it maps blocks and returns memory.",
    ),
    # Proof of what ran.
    Column("providers", "json", "", "Execution provider or device -> nodes that it ran."),
    Column("kernels", "json", "", "Kernel or operator type in the optimised graph -> count."),
    Column("integer_kernels", "int", "nodes", "Nodes whose multiplications run on integers."),
    Column("casts", "int", "nodes", "Cast, QuantizeLinear and DequantizeLinear nodes left."),
    Column("graph_breaks", "int", "", "Graph breaks of torch.compile."),
    Column("attention_kernel", "string", "", "The attention kernel that ran."),
    Column("fallback", "string", "", "What ran elsewhere or otherwise than asked. Null: nothing."),
    # Provenance.
    Column("artifact_key", "string", "", "Key of the artifact in the content-addressed store."),
    Column(
        "lineage",
        "json",
        "",
        "Steps that made the artifact, oldest first: a list of objects with step, parameters, "
        "facts, seconds and bytes.",
    ),
    Column(
        "block",
        "string",
        "",
        "The interleaved group that was measured together. A drift of the machine slows a whole "
        "block, so cells of different blocks are compared with more caution.",
    ),
    Column("order", "int", "", "Place of the cell in the run's random order."),
    # Where the time went.
    Column("build_s", "float", "s", "Making the artifact; near zero when the store had it."),
    Column(
        "start_s",
        "float",
        "s",
        "Starting the session's worker and importing its libraries, two workers at a time.",
    ),
    Column("open_s", "float", "s", "Opening the artifact in the worker, by the worker's clock."),
    Column("accuracy_s", "float", "s", "Scoring the task's test split."),
    Column("timed_s", "float", "s", "Inside the calls, warm-up and samples."),
    Column("overhead_s", "float", "s", "The cell's wall time less all of the above."),
    Column("finished_at", "string", "", "When the row was written, ISO 8601 in UTC."),
)
BY_NAME: Mapping[str, Column] = {column.name: column for column in COLUMNS}
REQUIRED = ("cell_id", "suite", *AXES, "status")
