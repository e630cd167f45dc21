"""The table of repeated runs, from runs whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scripts.repeat import Run, deviation, next_process, table


def run(fp32: float, int8: float, low: float | None, high: float | None) -> Run:
    """Two processes each; the interval is the fp32 cell's, in ms."""
    cells = pd.DataFrame(
        [
            {"recipe": "fp32", "workload": "one", "latency_p50_ms": fp32, "speedup": 1.0},
            {"recipe": "int8", "workload": "one", "latency_p50_ms": int8, "speedup": fp32 / int8},
        ],
        index=["a", "b"],
    )
    cells["latency_p50_low_ms"] = [low, int8 - 0.1]
    cells["latency_p50_high_ms"] = [high, int8 + 0.1]
    kept = {
        name: [np.full(10, int(1e6 * value)), np.full(30, int(1.001e6 * value))]
        for name, value in (("a", fp32), ("b", int8))
    }
    return Run(cells, kept)


def test_table_counts_the_intervals_that_hold_the_median_of_all_runs() -> None:
    told = table(
        [
            run(4.0, 1.99, 3.9, 4.1),
            run(4.0, 2.01, 4.05, 4.1),  # beside 4.0
            run(4.4, 2.0, None, None),  # not given, and so in no count
        ]
    )
    first, second = (line.split(" | ") for line in told.splitlines()[2:])
    assert first[:4] == ["| fp32 one", "4.004", "2 of 3", "1"]
    assert first[5] == "0.0%"  # two of the three are the same
    assert second[:4] == ["| int8 one", "2.000", "3 of 3", "3"]
    assert second[7] == "0.498"  # 1.99 over 4.0


def test_deviation_is_relative_to_the_median() -> None:
    assert deviation([9.0, 10.0, 12.0]) == pytest.approx(0.1)


def test_what_differs_from_run_to_run_is_common_to_its_processes() -> None:
    random = np.random.default_rng(4)
    levels = (1, 5, 9, 13)
    apart = [[np.array([level + random.normal()]) for _ in range(5)] for level in levels]
    assert float(next_process(apart)) > 0.8
    alike = [[np.array([random.normal()]) for _ in range(5)] for _ in range(40)]
    assert abs(float(next_process(alike))) < 0.25


def test_next_process_pairs_processes_of_one_run() -> None:
    rising = [[np.array([level]) for level in (1, 2, 3)] for _ in range(3)]
    assert next_process(rising) == "1.00"
    # From one run to the next nothing is compared.
    assert next_process([[np.array([1])], [np.array([9])]]) == ""
