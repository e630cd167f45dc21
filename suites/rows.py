"""A cell's row, put together from what was learnt of it. Columns: ``reports/columns/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from compile.artifact import Artifact
from compile.errors import Corrupted, Incorrect, InputError, Unsupported
from quantize.recipe import Tolerance
from runtimes.client import Throughput
from runtimes.failures import WorkerError, WorkerOutOfMemory, WorkerTimeout
from runtimes.session import FairnessContract, MemoryBreakdown, Proof
from suites.builder import BuildFailed
from suites.cell import Cell
from suites.correctness import Fidelity
from suites.load.rows import asked
from suites.measure.energy import Power
from suites.measure.measurement import Conditions, Measurement
from suites.measure.quantiles import Insufficient
from suites.measure.ratio import RatioEstimate
from suites.suite_file import Workload

FAILURES = (BuildFailed, Unsupported, Incorrect, Corrupted, WorkerError, MemoryError)
"""What ends one cell and not the run. An InputError is the user's to mend and ends the run."""


SESSION_FAILURES = (*FAILURES, InputError)
"""Of a session whose suite, options and artifact were accepted, whatever it refuses is its own
cells' matter: another runtime may take the same graph."""


def failure(error: Exception) -> dict[str, Any]:
    """Status and one-line reason of a cell that an expected error ended."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return {"status": _status(error), "reason": reason[:1000]}


def _status(error: Exception) -> str:
    match error:
        case BuildFailed():
            return error.status
        case Unsupported() | InputError():
            return "unsupported"
        case Incorrect():
            return "incorrect"
        case WorkerOutOfMemory() | MemoryError():
            return "out-of-memory"
        case WorkerTimeout():
            return "timeout"
    return "error"


def identity(suite: str, cell: Cell, workload: Workload, order: int) -> dict[str, Any]:
    """What every row has, whatever happened."""
    return {
        "cell_id": cell.id,
        "suite": suite,
        **asdict(cell),
        "batch": workload.batch,
        "sequence": workload.sizes.get("sequence"),
        "past": workload.past,
        "kind": workload.kind,
        **({} if workload.load is None else asked(workload.load)),
        "order": order,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def size(artifact: Artifact, fp32_bytes: int | None) -> dict[str, Any]:
    ratios = [e.facts["weights_ratio"] for e in artifact.lineage if "weights_ratio" in e.facts]
    return {
        "artifact_key": artifact.key,
        "artifact_bytes": artifact.bytes,
        "artifact_ratio": artifact.bytes / fp32_bytes if fp32_bytes else None,
        "weights_ratio": ratios[-1] if ratios else None,
        "lineage": [
            {
                "step": entry.step,
                "parameters": dict(entry.parameters),
                "facts": dict(entry.facts),
                "seconds": entry.seconds,
                "bytes": entry.bytes,
            }
            for entry in artifact.lineage
        ],
    }


def fidelity(measured: Fidelity, tolerance: Tolerance) -> dict[str, Any]:
    return {
        "max_abs_error": measured.max_abs_error,
        "max_rel_error": measured.max_rel_error,
        "relative_error": measured.relative_error,
        "top1_agreement": measured.top1_agreement,
        "fidelity_predictions": measured.predictions or None,
        "kl_divergence": measured.kl_divergence,
        # The floor is declared in dB; its column is the relative error that it allows.
        "tolerance": None if tolerance.min_snr_db is None else 10 ** (-tolerance.min_snr_db / 20),
    }


def latency(measurement: Measurement) -> dict[str, Any]:
    """The measured figures; without a latency unless the measurement is ``ok``."""
    row: dict[str, Any] = {
        "samples": int(measurement.samples.kept.size),
        "warmup_calls": measurement.warmup_calls,
        "warmup_s": measurement.warmup_seconds,
        "looks": len(measurement.looks),
        "drift": measurement.drift,
        "own_drift": measurement.own_drift,
        **_processes(measurement),
    }
    insufficient = []
    for p, estimate in measurement.quantiles.items():
        name = f"latency_p{p * 100:.0f}"
        if isinstance(estimate, Insufficient):
            insufficient.append(name.removeprefix("latency_"))
            continue
        row |= {
            f"{name}_ms": estimate.value / 1e6,
            f"{name}_low_ms": estimate.low / 1e6,
            f"{name}_high_ms": estimate.high / 1e6,
        }
        if p == 0.5:
            row["effective_samples"] = estimate.effective
    if measurement.quantiles:
        row["insufficient"] = ", ".join(insufficient) or None
        row["latency_min_ms"] = (measurement.minimum_ns or 0) / 1e6
        row["latency_mad_ms"] = (measurement.mad_ns or 0.0) / 1e6
    return row


def _processes(measurement: Measurement) -> dict[str, Any]:
    found = measurement.processes
    if found is None:
        return {"processes": 1}
    return {
        "processes": found.count,
        "processes_unsteady": found.unsteady,
        "processes_spread": found.spread,
    }


def conditions(found: Conditions) -> dict[str, Any]:
    """How the machine was meanwhile: ``meters.surroundings.FIGURES``, and what it disturbed."""
    return {
        "disturbed_samples": found.disturbed_calls,
        "disturbed_by": found.disturbed_by,
        **found.figures,
    }


def comparison(compared: Mapping[str, RatioEstimate], plain: str | None) -> dict[str, Any]:
    """How the cell compares with those that took turns with it, by their ids; and how much faster
    it is than ``plain``, the fp32 build on its own runtime."""
    row: dict[str, Any] = {
        "compared": {
            other: [round(ratio.value, 5), round(ratio.low, 5), round(ratio.high, 5)]
            for other, ratio in compared.items()
        }
        or None
    }
    if plain is not None and (ratio := compared.get(plain)) is not None:
        row |= {
            "speedup": 1 / ratio.value,
            "speedup_low": 1 / ratio.high,
            "speedup_high": 1 / ratio.low,
        }
    return row


def samples(measurement: Measurement) -> dict[str, np.ndarray]:
    """The columns of ``samples.parquet``."""
    raw = measurement.samples
    columns = {
        "latency_ns": raw.nanoseconds,
        "block": raw.block,
        "process": np.zeros(len(raw.block), np.int32) if raw.process is None else raw.process,
        "phase": np.where(raw.warmup, "warmup", "sample"),
        "disturbed": raw.disturbed,
    }
    if raw.cause is not None:
        columns["cause"] = np.array([word or None for word in raw.cause], object)
    return columns


def throughput(calls_per_s: float, workload: Workload) -> dict[str, Any]:
    examples = calls_per_s * workload.batch
    tokens = workload.sizes.get("sequence")
    return {
        "throughput_samples_per_s": examples,
        "throughput_tokens_per_s": None if tokens is None else examples * tokens,
    }


def energy(power: Power, idle: Power, calls_per_s: float, workload: Workload) -> dict[str, Any]:
    """Joules an example, from the mean power of calls made back to back."""
    watts = power.watts
    return {
        "energy_j_per_sample": None if watts is None else watts / (calls_per_s * workload.batch),
        "energy_power_w": watts,
        "energy_idle_w": idle.watts,
        "energy_source": power.source or None,
        "energy_absent": power.absent or None,
    }


def back_to_back(through: Throughput) -> dict[str, Any]:
    """What many calls in a row did to the worker's memory."""
    grown = through.grown_bytes
    return {
        "page_faults_per_call": through.page_faults / through.calls,
        "memory_growth_bytes_per_call": None if grown is None else grown / through.calls,
        "memory_throughput_peak_bytes": through.peak_bytes,
    }


def memory(breakdown: MemoryBreakdown) -> dict[str, Any]:
    row: dict[str, Any] = {f"memory_{name}": value for name, value in breakdown.to_json().items()}
    waste, reserved = breakdown.waste_bytes, breakdown.reserved_bytes
    row["memory_waste_ratio"] = None if waste is None or not reserved else waste / reserved
    return row


def contract(agreed: FairnessContract) -> dict[str, Any]:
    return {f"contract_{name}": value for name, value in asdict(agreed).items()}


def proof(shown: Proof) -> dict[str, Any]:
    return {
        "providers": dict(shown.providers),
        "kernels": dict(shown.kernels),
        "integer_kernels": shown.integer_kernels,
        "casts": shown.casts,
        "graph_breaks": shown.graph_breaks,
        "attention_kernel": shown.attention or None,
        "fallback": shown.fallback or None,
    }
