"""What this machine has: which runtimes can be used, and the facts that decide how fast they are.

Runtimes are asked in short-lived workers under their own interpreters; machine facts are read
from the kernel and from small tools. Nothing heavy is imported into the caller.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from compile.errors import Unsupported
from runtimes import registry
from runtimes.client import Worker
from runtimes.distributions import installed
from runtimes.failures import WorkerError
from runtimes.session import Availability

AT_ONCE = 2
"""Importing torch and its like twice at a time is as much as a small machine bears."""
TOOL_PATIENCE_S = 20.0
ISA_FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)
DISTRIBUTIONS = (
    *("assay", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "openvino"),
    *("optimum", "optimum-onnx", "safetensors", "tensorrt-cu12", "tokenizers", "torch"),
    *("transformers", "bitsandbytes"),
)
GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.max.sm", "power.limit")


def survey(
    pythons: Mapping[str, str] | None = None, names: Iterable[str] | None = None
) -> list[tuple[str, Availability]]:
    """Each runtime's availability, in the registry's order.

    ``pythons`` names the interpreter of a runtime that lives in another environment. Raises
    InputError for an unknown runtime or interpreter; whatever else goes wrong with a runtime is
    the reason why it is not available.
    """
    pythons = pythons or {}
    asked = list(names) if names is not None else registry.names()
    for name in [*asked, *pythons]:
        registry.entry(name)
    with (
        tempfile.TemporaryDirectory() as logs,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        answers = pool.map(lambda name: _ask(name, pythons.get(name), Path(logs)), asked)
        return list(zip(asked, answers, strict=True))


def _ask(name: str, python: str | None, logs: Path) -> Availability:
    try:
        with Worker.start(name, python=python, log_dir=logs, timeout_s=120) as worker:
            return worker.availability()
    except Unsupported as error:
        return Availability(False, str(error), "choose an interpreter that has NumPy")
    except WorkerError as error:
        return Availability(False, f"importing it failed: {error}", "reinstall the package")


def environment() -> dict[str, Any]:
    """Facts about machine and software as JSON values; None where something cannot be found."""
    return {
        "cpu": cpu(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        "compiler": _compiler(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "versions": installed(*DISTRIBUTIONS),
    }


def cpu() -> dict[str, Any]:
    info = _fields(Path("/proc/cpuinfo"))
    flags = set((info.get("flags") or info.get("Features") or "").split())
    sys_cpu = Path("/sys/devices/system/cpu")
    return {
        "model": info.get("model name") or platform.processor() or None,
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "logical_cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "quota": _text(Path("/sys/fs/cgroup/cpu.max")),
        "governor": _text(sys_cpu / "cpu0/cpufreq/scaling_governor"),
        "no_turbo": _text(sys_cpu / "intel_pstate/no_turbo"),
        "smt": _text(sys_cpu / "smt/control"),
    }


def _memory_bytes() -> int | None:
    total = _fields(Path("/proc/meminfo")).get("MemTotal")
    return int(total.split()[0]) * 1024 if total else None


def _gpus() -> list[dict[str, str]]:
    lines = _tool("nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader")
    return [
        dict(zip(GPU_FIELDS, (cell.strip() for cell in line.split(",")), strict=False))
        for line in lines
    ]


def _compiler() -> str | None:
    lines = _tool(os.environ.get("CXX", "g++"), "--version") or _tool("clang++", "--version")
    return lines[0] if lines else None


def _tool(*command: str) -> list[str]:
    """The lines that a tool prints; none where it is missing, fails or does not end."""
    if shutil.which(command[0]) is None:
        return []
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TOOL_PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]


def _fields(file: Path) -> dict[str, str]:
    """``key : value`` lines, the first of each key."""
    fields: dict[str, str] = {}
    for line in (_text(file) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
