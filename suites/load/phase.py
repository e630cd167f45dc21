"""One load workload on all open sessions of a block: episodes in turns, in random order.

Every turn of a cell is one episode: it begins with an empty queue, and the worker is stopped
before and after it. All cells of the workload see the same arrivals in the same turn where their
rates are the same, so that builds differ by themselves and not by their luck.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from compile.signature import Feeds
from suites import rows
from suites.blocks import SessionKey
from suites.cell import Cell
from suites.load.loaded_cell import PACE_TURNS, LoadedCell
from suites.measure.meters.pressure import Pressure
from suites.measure.meters.speed import Yardstick
from suites.measure.meters.surroundings import Surroundings
from suites.measure.patience import Patience
from suites.measure.plan import MeasurePlan
from suites.phase import Outcome, checked
from suites.sessions import LiveSession
from suites.suite_file import Workload


def run_load_phase(
    pairs: Sequence[tuple[LiveSession, Cell]],
    workload: Workload,
    feeds: Mapping[SessionKey, Feeds],
    references: Mapping[str, Feeds],
    plan: MeasurePlan,
    seed: int,
    on_progress: Callable[[str, float], None],
    yardstick: Yardstick | None = None,
) -> Iterator[Outcome]:
    """Measure the cells of one load workload, interleaved. ``references`` is by recipe.

    A cell that fails yields its outcome and leaves the others alone.
    """
    load = workload.load
    assert load is not None, "this phase is for load workloads"
    began = time.perf_counter()
    ready, failed = checked(pairs, feeds, references, on_progress)
    yield from (Outcome(cell, rows.failure(error)) for cell, error in failed)
    cells = [
        LoadedCell(session, cell, columns, feeds[session.key], load, plan, seed, yardstick)
        for session, cell, columns in ready.values()
    ]
    waiting = Surroundings([Pressure()])
    before, start = waiting.read(), time.perf_counter()
    random = np.random.default_rng(seed)
    patience = Patience(yardstick, plan.patience_s)
    for prepare in (LoadedCell.warm_up, *[LoadedCell.take_pace] * PACE_TURNS):
        on_progress(f"warming up {len(cells)} cells", 0)
        _in_random_order(random, cells, patience, prepare)
    turn = 0
    while any(not cell.finished for cell in cells):
        on_progress(f"serving {len(cells)} cells", turn / load.most_turns)
        _in_random_order(random, cells, patience, partial(LoadedCell.take_turn, number=turn))
        turn += 1
    pressure = waiting.seen(before, time.perf_counter() - start).figures
    outcomes = [cell.outcome() for cell in cells]
    timed = sum(outcome.columns["timed_s"] for outcome in outcomes)
    share = (time.perf_counter() - began - timed) / max(1, len(outcomes))
    for outcome in outcomes:
        columns = {**outcome.columns, **pressure, "overhead_s": share}
        columns["machine_waited_s"] = patience.waited_s
        yield Outcome(outcome.cell, columns, outcome.samples)


def _in_random_order(
    random: np.random.Generator,
    cells: Sequence[LoadedCell],
    patience: Patience,
    act: Callable[[LoadedCell], None],
) -> None:
    live = [cell for cell in cells if not cell.finished]
    for index in random.permutation(len(live)):
        patience()
        live[index].guarded(act)
