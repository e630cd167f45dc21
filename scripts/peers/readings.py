"""The latency that each benchmark reports, out of the file that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NoLatency(RuntimeError):
    """A benchmark that reported none; the message is the reason, in one line."""


def optimum_benchmark(report: Mapping[str, Any]) -> float:
    """Milliseconds: the p50 of ``forward`` in ``BenchmarkReport.save_json``'s file.

    ``forward.latency.values`` has the single calls there. Raises NoLatency for a report without.
    """
    latency = (report.get("forward") or {}).get("latency")
    if not latency:
        raise NoLatency("its report has no forward.latency")
    if latency["unit"] != "s":
        raise NoLatency(f"its report counts in {latency['unit']!r}, not in seconds")
    return 1e3 * float(latency["p50"])


def pytest_benchmark(report: Mapping[str, Any]) -> float:
    """Milliseconds: the median of the only benchmark in a ``--benchmark-json`` file.

    Raises NoLatency where there is not exactly one.
    """
    benchmarks = report.get("benchmarks") or []
    if len(benchmarks) != 1:
        raise NoLatency(f"its report has {len(benchmarks)} benchmarks, not one")
    return 1e3 * float(benchmarks[0]["stats"]["median"])


def assay(row: Mapping[str, Any]) -> float:
    """Milliseconds: ``latency_p50_ms`` of a row of ``cells.parquet``. Raises NoLatency without."""
    if row["status"] != "ok":
        raise NoLatency(f"{row['status']}: {row['reason']}")
    value = row["latency_p50_ms"]
    if value is None:
        raise NoLatency("the p50 is insufficient: the calls cannot support an interval of it")
    return float(value)
