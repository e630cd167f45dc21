"""One workload on all open sessions of a block: checked, then measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from compile.signature import Feeds
from runtimes.nvml import NvmlDevice, NvmlUnavailable
from suites import rows
from suites.blocks import SessionKey
from suites.cell import Cell
from suites.measure.energy import Energy, Power, energy_meters
from suites.measure.loop import Progress, measure
from suites.measure.measurement import Measurement
from suites.measure.meters.pressure import Pressure
from suites.measure.meters.speed import Yardstick
from suites.measure.meters.surroundings import Surroundings, meters
from suites.measure.patience import Patience
from suites.measure.plan import MeasurePlan
from suites.sessions import LiveSession
from suites.suite_file import Workload

THROUGHPUT_S = 0.25
THROUGHPUT_CALLS = 5
"""Back-to-back calls last this long, and are at least so many."""


@dataclass(frozen=True)
class Outcome:
    """What became of one cell: the columns beyond its identity, and every timed call."""

    cell: Cell
    columns: dict[str, Any]
    samples: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Visit:
    """What one process's sessions gave of a cell."""

    cell: Cell
    said: dict[str, Any]
    """Columns of the checked call, the contract and the proof, which processes should repeat."""
    measurement: Measurement | None = None
    """None where the session failed before the clock."""
    circumstances: dict[str, Any] = field(default_factory=dict)
    """Columns of how the process began and how the machine was meanwhile."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Columns that were measured after the clock; empty unless the measurement is ``ok``."""
    spent: dict[str, float] = field(default_factory=dict)
    """Columns of seconds that processes add up."""
    failure: Exception | None = None


Ready = dict[str, tuple[LiveSession, Cell, dict[str, Any]]]
"""By a cell's id: its session, the cell, and the columns that are known before the clock."""


def visit(
    pairs: Sequence[tuple[LiveSession, Cell]],
    workload: Workload,
    feeds: Mapping[SessionKey, Feeds],
    references: Mapping[str, Feeds],
    plan: MeasurePlan,
    seed: int,
    on_progress: Callable[[str, float], None],
    yardstick: Yardstick | None = None,
) -> list[Visit]:
    """Measure the cells of one workload in the sessions that are open, interleaved. ``plan`` is
    that of one process (``share_of``), ``references`` is by recipe. With a ``yardstick`` turns are
    put off while the machine is slow, as long as ``plan.patience_s``.

    A cell that fails has its failure in its visit and leaves the others alone.
    """
    start = time.perf_counter()
    ready, failed = checked(pairs, feeds, references, on_progress)
    # Every worker is stopped now: what the machine uses is its idle power.
    energy = {device: Energy(energy_meters(device)) for device in {c.device for _, c in pairs}}
    idle = {device: meter.idle() for device, meter in energy.items()}
    waiting = Surroundings([Pressure()])
    before, began = waiting.read(), time.perf_counter()
    patience = Patience(yardstick, plan.patience_s)
    measured = measure(
        {id: session for id, (session, _, _) in ready.items()},
        plan,
        seed,
        _shown(ready, on_progress),
        surroundings={
            id: Surroundings(
                meters(session.worker.pid, cell.device, plan.disturbed_cores, yardstick=yardstick)
            )
            for id, (session, cell, _) in ready.items()
        },
        patience=patience,
    )
    pressure = waiting.seen(before, time.perf_counter() - began).figures
    found = []
    for id, (session, cell, said) in ready.items():
        measurement = measured[id]
        failure, figures = measurement.failure, {}
        timed_s = float(measurement.samples.nanoseconds.sum()) / 1e9
        if measurement.status == "ok":
            try:
                figures = _after_the_clock(
                    session,
                    workload,
                    feeds[session.key],
                    measurement,
                    energy[cell.device],
                    idle[cell.device],
                )
                timed_s += figures.pop("throughput_s")
            except rows.SESSION_FAILURES as error:
                failure = error
        if failure is not None:
            session.abandon_if_dead(failure)
        around = {**pressure, **session.timings}
        spent = {"timed_s": timed_s, "machine_waited_s": patience.waited_s}
        found.append(Visit(cell, said, measurement, around, figures, spent, failure))
    timed = sum(each.spent["timed_s"] for each in found)
    share = (time.perf_counter() - start - timed) / max(1, len(found))
    for each in found:
        each.spent["overhead_s"] = share
    return [*(Visit(cell, {}, failure=error) for cell, error in failed), *found]


def checked(
    pairs: Sequence[tuple[LiveSession, Cell]],
    feeds: Mapping[SessionKey, Feeds],
    references: Mapping[str, Feeds],
    on_progress: Callable[[str, float], None],
) -> tuple[Ready, list[tuple[Cell, Exception]]]:
    """Hold each session to its reference and put its call in place: those that are ready by the
    ids of their cells, each with its columns, and what was wrong with those that are not."""
    ready: Ready = {}
    failed: list[tuple[Cell, Exception]] = []
    for session, cell in pairs:
        on_progress(f"checking {cell.label}", 0)
        try:
            columns = session.ready(feeds[session.key], references[cell.recipe])
        except rows.SESSION_FAILURES as error:
            session.abandon_if_dead(error)
            failed.append((cell, error))
        else:
            ready[cell.id] = (session, cell, columns)
    return ready, failed


def _after_the_clock(
    session: LiveSession,
    workload: Workload,
    feeds: Feeds,
    measurement: Measurement,
    energy: Energy,
    idle: Power,
) -> dict[str, Any]:
    """Throughput back to back and its energy, then memory: its own call would disturb both."""
    call_s = float(np.median(measurement.samples.kept)) / 1e9
    seconds = max(THROUGHPUT_S, THROUGHPUT_CALLS * call_s, energy.min_seconds)
    # The timeout is meant for one call; this request makes several.
    limit = session.entry.timeout + 2 * seconds
    through, power = energy.during(
        lambda: session.worker.throughput(seconds, unrecorded=1, timeout_s=limit)
    )
    return {
        **rows.throughput(through.calls_per_s, workload),
        **rows.energy(power, idle, through.calls_per_s, workload),
        **rows.back_to_back(through),
        **memory_columns(session, feeds),
        "throughput_s": through.ns / 1e9,
    }


def memory_columns(session: LiveSession, feeds: Feeds) -> dict[str, Any]:
    """What the session holds after a call, which it makes."""
    return {
        **rows.memory(session.worker.memory(feeds)),
        "memory_open_peak_bytes": session.open_peak_bytes,
        "memory_device_process_bytes": _device_bytes(session),
    }


def _device_bytes(session: LiveSession) -> int | None:
    """What the worker's processes hold of the GPU by NVML, CUDA contexts included."""
    if session.key.device == "cpu":
        return None
    try:
        worker = psutil.Process(session.worker.pid)
        pids = {worker.pid, *(child.pid for child in worker.children(recursive=True))}
        return NvmlDevice(session.key.device).process_bytes(pids)
    except (NvmlUnavailable, psutil.Error):
        return None


def _shown(
    ready: Ready,
    on_progress: Callable[[str, float], None],
) -> Callable[[Progress], None]:
    """The progress of a whole phase: the mean over its cells."""
    fractions = dict.fromkeys(ready, 0.0)
    workload = next((cell.workload for _, cell, _ in ready.values()), "")

    def show(progress: Progress) -> None:
        fractions[progress.name] = progress.fraction
        on_progress(
            f"measuring {len(fractions)} cells of {workload}",
            sum(fractions.values()) / len(fractions),
        )

    return show
