"""A cell's row from the visits of several processes, against figures made up for each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compile.errors import Incorrect
from runtimes.failures import WorkerCrashed
from suites.cell import Cell
from suites.measure.loop import measure
from suites.measure.measurement import Measurement
from suites.measure.plan import MeasurePlan
from suites.phase import Visit
from suites.visits import hopeless, outcomes

PLAN = MeasurePlan(processes=3)
ALONE = MeasurePlan(processes=1)
LOOP = MeasurePlan(first_look=60, min_seconds=0, max_seconds=60, min_warmup_s=0)
CELL = Cell("m", "fp32", "fake", "default", "one", "cpu")


class Told:
    def __init__(self, times: np.ndarray) -> None:
        self._times = iter(times)

    def sample(self, calls: int, rewarm: int) -> np.ndarray:
        return np.array([next(self._times) for _ in range(calls)], np.int64)


def measured(ms: float, seed: int = 0, drift: float = 1.0) -> Measurement:
    # Noisy enough for a warm-up to end where there is a drift.
    noise = np.exp((0.02 if drift > 1 else 0.002) * np.random.default_rng(seed).normal(size=3000))
    times = 1e6 * ms * noise * np.linspace(1, drift, 3000)
    plan = replace(LOOP, first_look=200, max_samples=200) if drift > 1 else LOOP
    return measure({"c": Told(times)}, plan, seed)["c"]


def said(error: float = 1e-6, **more: Any) -> dict[str, Any]:
    return {"relative_error": error, "max_abs_error": 2 * error, "fallback": None, **more}


def visit(ms: float, reserved: int, used: int, **more: Any) -> Visit:
    figures = {
        "throughput_samples_per_s": 1000 / ms,
        "memory_reserved_bytes": reserved,
        "memory_in_use_bytes": used,
        "memory_waste_bytes": reserved - used,
    }
    given = {
        "said": said(),
        "measurement": measured(ms, seed=reserved),
        "circumstances": {"start_s": ms / 10},
        "figures": figures,
        "spent": {"timed_s": 1.5, "machine_waited_s": 0.5},
    }
    return Visit(CELL, **{**given, **more})


def row(*visits: Visit, plan: MeasurePlan = PLAN) -> dict[str, Any]:
    (outcome,) = outcomes({CELL: list(visits)}, plan)
    assert outcome.cell == CELL
    return outcome.columns


def test_figures_are_those_of_the_process_in_the_middle_and_belong_together() -> None:
    told = row(visit(4.2, 120, 110), visit(4.0, 100, 90), visit(4.1, 110, 80))
    assert told["status"] == "ok"
    assert told["processes"] == 3
    assert told["throughput_samples_per_s"] == 1000 / 4.1
    assert told["memory_reserved_bytes"] - told["memory_in_use_bytes"] == 30
    assert told["memory_waste_bytes"] == 30
    assert told["start_s"] == pytest.approx(0.41)
    assert (told["timed_s"], told["machine_waited_s"]) == (4.5, 1.5)
    assert told["latency_p50_ms"] == pytest.approx(4.1, rel=0.01)


def test_of_an_even_number_the_faster_of_the_two_in_the_middle_is_told() -> None:
    visits = [visit(ms, 100, 90) for ms in (4.3, 4.0, 4.2, 4.1)]
    assert row(*visits)["throughput_samples_per_s"] == 1000 / 4.1


@pytest.mark.parametrize(
    ("failure", "status"),
    [(Incorrect("relative error 0.7"), "incorrect"), (WorkerCrashed("killed"), "error")],
)
def test_a_build_that_fails_in_a_later_process_has_no_figures(failure, status) -> None:
    last = Visit(CELL, {}, failure=failure)
    told = row(visit(4.0, 100, 90), visit(4.1, 100, 90), last)
    assert told["status"] == status
    assert told["reason"] == f"{failure} (process 3 of 3)"
    assert told["samples"] == 120  # what it did before is counted and kept
    for name in (*visit(4.0, 1, 1).figures, "relative_error", "latency_p50_ms", "compared"):
        assert told.get(name) is None, name


def test_one_process_is_not_told_to_be_one_of_one() -> None:
    told = row(Visit(CELL, {}, failure=WorkerCrashed("killed")), plan=ALONE)
    assert told == {"status": "error", "reason": "killed"}


def test_fidelity_is_the_worst_and_what_differs_is_told() -> None:
    told = row(
        visit(4.0, 100, 90, said=said(1e-6, kernels={"MatMul": 4})),
        visit(4.0, 101, 90, said=said(1e-3, kernels={"MatMul": 4})),
        visit(4.0, 102, 90, said=said(1e-5, kernels={"Gemm": 4}, fallback="ran on the CPU")),
    )
    assert (told["relative_error"], told["max_abs_error"]) == (1e-3, 2e-3)
    assert told["kernels"] == {"MatMul": 4}
    assert told["fallback"] == "ran on the CPU; processes differ in kernels"


def test_processes_that_say_the_same_say_it_once() -> None:
    told = row(*(visit(4.0, n, 1, said=said(fallback="no AMX")) for n in (1, 2, 3)))
    assert told["fallback"] == "no AMX"


def test_a_cell_that_drifts_in_half_of_its_processes_need_not_go_on() -> None:
    steady = visit(4.0, 100, 90)
    unsteady = visit(4.0, 100, 90, measurement=measured(4.0, drift=5.0), figures={})
    assert unsteady.measurement.status == "not-stationary"
    assert not hopeless([steady, unsteady], 5)
    assert not hopeless([unsteady, unsteady], 5)
    assert hopeless([unsteady, steady, unsteady, unsteady], 5)
    told = row(unsteady, unsteady)
    assert told["status"] == "not-stationary"
    assert told.get("throughput_samples_per_s") is None
    assert told["processes_unsteady"] == 2


def test_cells_of_one_workload_are_compared_by_their_processes() -> None:
    other = Cell("m", "int8", "fake", "default", "one", "cpu")
    pairs = {CELL: [], other: []}
    for seed, ms in enumerate((4.0, 4.4, 4.2)):
        noise = np.exp(0.002 * np.random.default_rng(seed).standard_normal((2, 4000)))
        samplers = {"a": Told(1e6 * ms * noise[0]), "b": Told(1e6 * ms / 2 * noise[1])}
        found = measure(samplers, LOOP, seed)
        pairs[CELL].append(Visit(CELL, said(), found["a"], {}, {"x": 1}))
        pairs[other].append(Visit(other, said(), found["b"], {}, {"x": 1}))
    told = {each.cell: each.columns for each in outcomes(pairs, PLAN)}
    assert told[other]["speedup"] == pytest.approx(2.0, rel=0.01)
    assert told[other]["speedup_low"] > 1.97  # the level of a process is common to both
    assert told[CELL]["processes_spread"] == pytest.approx(np.log([4.0, 4.4, 4.2]).std(ddof=1), 0.1)
