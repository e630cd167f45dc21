"""Rows that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.store import RunStore

MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture
def make_row() -> MakeRow:
    """A function that makes a measured row; its arguments replace columns."""

    def make(recipe: str = "fp32", runtime: str = "onnxruntime-cpu", **columns: Any) -> dict:
        p50 = columns.get("latency_p50_ms", 10.0)
        row = {
            "cell_id": f"tiny/{recipe}/{runtime}/{columns.get('workload', 'b1')}",
            "suite": "demo",
            "model": "tiny",
            "recipe": recipe,
            "runtime": runtime,
            "attention": "default",
            "workload": "b1",
            "device": "cpu",
            "status": "ok",
            "latency_p50_ms": p50,
            "latency_p50_low_ms": p50 and p50 * 0.99,
            "latency_p50_high_ms": p50 and p50 * 1.01,
            "artifact_bytes": 1000,
            "accuracy_drop": 0.0,
            "accuracy_drop_low": -0.002,
            "accuracy_drop_high": 0.002,
            "accuracy_drop_bound": 0.0017,
            "accuracy": 0.9,
            "contract_clock": "host",
            "contract_threads": 1,
            "contract_precision": "f32",
            "block": "one",
        }
        return {**row, **columns}

    return make


@pytest.fixture
def bare_row() -> dict[str, Any]:
    """A measured row without any column that a row can lack."""
    return {
        "cell_id": "1",
        "model": "m",
        "recipe": "r",
        "runtime": "t",
        "workload": "w",
        "device": "cpu",
        "status": "ok",
        "latency_p50_ms": 3.0,
    }


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that looks like a real one. Not to be written to."""
    return write_demo(tmp_path_factory.mktemp("demo") / "run")


MIB = 2**20
# recipe -> (size in MiB, speed relative to fp32, accuracy drop in points)
RECIPES = {
    "fp32": (17.6, 1.0, 0.0),
    "fp16": (8.9, 0.98, 0.01),
    "int8-dynamic": (5.1, 2.1, 0.22),
    "int8-static": (4.7, 2.6, 0.41),
    "int4": (3.4, 1.5, 1.1),
    "distilled": (9.8, 1.9, 2.4),
    "pruned": (17.6, 1.02, 0.7),
}
RUNTIMES = {"torch-eager": 1.0, "torch-compile": 1.25, "onnxruntime-cpu": 1.5, "openvino": 1.42}
WORKLOADS = {"b1x128": (1, 10.0), "b8x128": (8, 61.0)}


def write_demo(folder: Path, samples: int = 400) -> Path:
    """Write the run and return its folder."""
    random = np.random.default_rng(7)
    run = {
        "suite": "quickstart",
        "suite_text": '[suite]\nname = "quickstart"\n\n[matrix]\nmodel = ["tiny-encoder"]\n'
        f"recipe = {list(RECIPES)}\nruntime = {list(RUNTIMES)}\n",
        "command": "assay run quickstart --out results/quickstart",
        "seed": 0,
        "max_drop": 0.01,
        "runtimes": {
            "onnxruntime-cpu": {
                "available": True,
                "reason": "",
                "way_out": "",
                "versions": {"onnxruntime": "1.23.0", "python": "3.11.7"},
            },
            "onnxruntime-cuda": {
                "available": False,
                "reason": "no CUDA device",
                "way_out": "run on a machine with one",
            },
        },
        "environment": {
            "cpu": "Intel Xeon Platinum 8488C",
            "cores": 2,
            "governor": "performance",
            "memory_bytes": 8 * 2**30,
            "gpu": None,
            "os": "Linux 6.8",
            "instructions": ["avx512f", "avx512_vnni", "amx_int8"],
        },
        "versions": {"assay": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0"},
        "git": {"commit": "202617f0c1", "dirty": False},
    }
    with RunStore.create(folder, run) as store:
        order = 0
        for recipe, (size, speed, drop) in RECIPES.items():
            for runtime, factor in RUNTIMES.items():
                for workload, (batch, base) in WORKLOADS.items():
                    row = _identity(recipe, runtime, workload, batch, order)
                    order += 1
                    if failure := _failure(recipe, runtime):
                        store.record({**row, "status": failure[0], "reason": failure[1]})
                        continue
                    speed_here = 1.0 if runtime.startswith("torch") and "int" in recipe else speed
                    latency = base / (speed_here * factor)
                    draws = latency * (1 + random.gamma(2.0, 0.015, samples))
                    draws[random.random(samples) < 0.02] *= 1.25
                    store.record(
                        {
                            **row,
                            **_measured(draws, size, runtime, batch, base),
                            **_accuracy(drop, runtime),
                            "lineage": _lineage(recipe, size),
                        },
                        {
                            "latency_ns": (draws * 1e6).astype(np.int64),
                            "block": np.arange(samples, dtype=np.int32) // 50,
                        },
                    )
        store.finish()
    return folder


def _identity(recipe: str, runtime: str, workload: str, batch: int, order: int) -> dict[str, Any]:
    return {
        "cell_id": f"tiny-encoder/{recipe}/{runtime}/{workload}",
        "suite": "quickstart",
        "model": "tiny-encoder",
        "recipe": recipe,
        "runtime": runtime,
        "attention": "default",
        "workload": workload,
        "device": "cpu",
        "status": "ok",
        "batch": batch,
        "sequence": 128,
        "past": 0,
        "kind": "forward",
        "order": order,
        "block": "all",
        "contract_clock": "host",
        "contract_copies": "none",
        "contract_synchronised": True,
        "contract_io_binding": runtime == "onnxruntime-cpu",
        "contract_threads": 2,
        "contract_precision": "f32",
        "contract_start": "warm",
    }


def _failure(recipe: str, runtime: str) -> tuple[str, str] | None:
    if runtime.startswith("torch") and recipe in ("int4", "int8-static", "int8-dynamic"):
        return "unsupported", "torch runtimes open torch artifacts; this recipe ends in ONNX"
    if runtime == "torch-compile" and recipe == "pruned":
        return "error", "worker died with signal 11 (SIGSEGV) while opening the session"
    if runtime == "openvino" and recipe == "int4":
        return "incorrect", "largest relative error 0.31 is over the recipe's tolerance of 0.25"
    return None


def _measured(
    draws: np.ndarray, size: float, runtime: str, batch: int, base: float
) -> dict[str, Any]:
    ordered, count = np.sort(draws), len(draws)
    half = int(0.98 * np.sqrt(count))
    weights = int(size * MIB)
    libraries = 210 * MIB if runtime.startswith("torch") else 62 * MIB
    used = weights + int((9 + 0.6 * batch) * MIB)
    reserved = int(used * (1.34 if runtime.startswith("torch") else 1.12))
    return {
        "latency_p50_ms": float(ordered[count // 2]),
        "latency_p50_low_ms": float(ordered[count // 2 - half]),
        "latency_p50_high_ms": float(ordered[count // 2 + half]),
        "latency_p90_ms": float(np.quantile(draws, 0.9)),
        "latency_p90_low_ms": float(np.quantile(draws, 0.87)),
        "latency_p90_high_ms": float(np.quantile(draws, 0.93)),
        "latency_p99_ms": float(np.quantile(draws, 0.99)) if base < 50 else None,
        "latency_p99_low_ms": float(np.quantile(draws, 0.975)) if base < 50 else None,
        "latency_p99_high_ms": float(draws.max()) if base < 50 else None,
        "insufficient": None if base < 50 else "p99",
        "latency_min_ms": float(draws.min()),
        "latency_mad_ms": float(np.median(np.abs(draws - np.median(draws)))),
        "samples": count,
        "effective_samples": 0.8 * count,
        "processes": 5,
        "warmup_calls": 31,
        "warmup_s": 0.5,
        "looks": 4,
        "disturbed_samples": 3,
        "throughput_samples_per_s": 1000 * batch / float(np.median(draws)),
        "throughput_tokens_per_s": 128_000 * batch / float(np.median(draws)),
        "artifact_bytes": weights,
        "artifact_ratio": size / 17.6,
        "weights_ratio": size / 17.6 * 0.98,
        "memory_weights_bytes": weights,
        "memory_baseline_bytes": libraries,
        "memory_resident_bytes": libraries + reserved,
        "memory_peak_bytes": libraries + reserved + 4 * MIB,
        "memory_reserved_bytes": reserved,
        "memory_in_use_bytes": used,
        "memory_waste_bytes": reserved - used,
        "memory_waste_ratio": (reserved - used) / reserved,
        "memory_minimum_bytes": weights + batch * 128 * 24,
        "build_s": 2.1,
        "start_s": 0.9,
        "open_s": 0.6,
        "accuracy_s": 3.3,
        "timed_s": 4.0,
        "overhead_s": 0.4,
        "finished_at": "2026-03-02T14:21:00Z",
        "providers": {"CPUExecutionProvider": 71},
        "kernels": {"MatMul": 25, "Add": 30},
        "max_abs_error": 1.2e-6,
        "tolerance": 1e-4,
        "artifact_key": "3f" * 16,
    }


def _accuracy(drop: float, runtime: str) -> dict[str, Any]:
    drop = (drop + (0.03 if runtime == "openvino" and drop else 0.0)) / 100
    half = 0.0 if drop == 0 else 0.0022 + 0.5 * drop
    return {
        "task": "snippets",
        "metric": "accuracy",
        "metric_value": 0.914 - drop,
        "metric_reference": 0.914,
        "accuracy": 0.914 - drop,
        "accuracy_drop": drop,
        "accuracy_drop_low": drop - half,
        "accuracy_drop_high": drop + half,
        "accuracy_drop_bound": drop + 0.84 * half,
        "examples": 3200,
        "flips": int(3200 * drop * 1.8),
        "top1_agreement": 1 - 1.4 * drop,
        "kl_divergence": drop * 0.4,
    }


def _lineage(recipe: str, size: float) -> list[dict[str, Any]]:
    steps = [("train", 17.6, 41.0), ("export", 17.7, 6.2)]
    if recipe not in ("fp32",):
        steps.append((recipe, size, 3.4))
    if recipe == "distilled":
        steps = [steps[0], ("distil", size, 38.0), ("export", size, 4.4)]
    return [
        {
            "step": step,
            "parameters": {"seed": 0},
            "facts": {"nodes_matched": 24},
            "seconds": seconds,
            "bytes": int(mib * MIB),
        }
        for step, mib, seconds in steps
    ]
