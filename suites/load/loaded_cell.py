"""One session under load: its episodes, from its warm-up to its row."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from compile.signature import Feeds
from runtimes.serving import Served
from suites import rows
from suites.cell import Cell
from suites.load import rows as load_rows
from suites.load.table import LoadTable
from suites.measure.block import Block, conditions_of, samples_of
from suites.measure.load.arrivals import arrivals
from suites.measure.load.capacity import MOST_LOOKS_AT_A_RATE, CapacitySearch, fewest_requests
from suites.measure.load.figures import Queue, figures
from suites.measure.load.saturation import saturation
from suites.measure.load.slo import Slo
from suites.measure.load.trace import RAMP_UP, Trace
from suites.measure.meters.speed import Yardstick
from suites.measure.meters.surroundings import Surroundings, meters
from suites.measure.plan import MeasurePlan
from suites.measure.steady import WarmUp
from suites.phase import Outcome, memory_columns
from suites.sessions import LiveSession

PACE_S = 0.25
PACE_TURNS = 3
"""What a cell finishes back to back is the median of so many turns of that length."""
BACKLOG_SHARE = 0.5
BACKLOG_CALLS = 20
"""An open loop's backlog is served for this share of the episode after its last arrival, or for
twice the SLO's time or so many mean calls if one of them is longer. What is left is given up and
counted."""
PEAKS = ("memory_peak_bytes", "memory_arena_peak_bytes")
"""Of one call that is made after the episodes. Nobody watched the load's own, so rows have none."""
FIRST_PROBE = 0.5
HIGHEST_PROBE = 1.5
"""Of that pace: where a capacity search begins, and beyond which it does not look."""


def backlog_ns(end_ns: int, slo: Slo | None, call_ns: float) -> int:
    """For how long the backlog of an episode is served after ``end_ns``; ``call_ns`` is a mean
    call."""
    objective = 0 if slo is None else 2 * slo.e2el_ns
    return round(max(BACKLOG_SHARE * end_ns, objective, BACKLOG_CALLS * call_ns))


def closed_end_ns(served: Served, seconds: float | None) -> int:
    """When a closed loop's episode ends: after its ``seconds``, or with the last answer where it
    has a number of requests. Its last request is sent ``concurrency`` answers before that."""
    return int(served.finish.max()) if seconds is None else round(seconds * 1e9)


class LoadedCell:
    """What becomes of one session's cell."""

    def __init__(
        self,
        session: LiveSession,
        cell: Cell,
        columns: dict[str, Any],
        feeds: Feeds,
        load: LoadTable,
        plan: MeasurePlan,
        seed: int,
        yardstick: Yardstick | None,
    ) -> None:
        self._session = session
        self._cell = cell
        self._columns = columns
        self._feeds = feeds
        self._load = load
        self._plan = plan
        self._seed = seed
        self._slo = None if load.slo is None else load_rows.slo_of(load.slo)
        self._surroundings = Surroundings(
            meters(session.worker.pid, cell.device, plan.disturbed_cores, yardstick=yardstick)
        )
        self._paces: list[float] = []
        self._pace = 0.0
        """Their median, in requests a second."""
        self._rate: float | None = load.rate
        self._search: CapacitySearch | None = None
        self._traces: list[Trace] = []
        self._rates: list[float | None] = []
        """That each was offered, in requests a second; None in a closed loop."""
        self._blocks: list[Block] = []
        self._ended: dict[str, Any] | None = None
        """Status and reason of a cell that cannot go on."""

    @property
    def finished(self) -> bool:
        if self._ended is not None:
            return True
        if self._search is not None:
            return self._search.next_rate() is None
        return len(self._traces) >= self._load.most_turns

    def guarded(self, act: Callable[[LoadedCell], None]) -> None:
        """Let it act; what goes wrong becomes its own status."""
        try:
            act(self)
        except rows.SESSION_FAILURES as error:
            self._session.abandon_if_dead(error)
            self._ended = rows.failure(error)

    def warm_up(self) -> None:
        """Single calls until they are steady, as before any other measurement."""
        plan, warm = self._plan, WarmUp(self._plan.min_warmup_s)
        seconds, calls = float(self._session.sample(1, 0)[0]) / 1e9, 1
        while not warm.steady and (warm.seconds < plan.max_warmup_s or len(warm.windows) < 2):
            size = warm.window_calls(seconds)
            window = self._session.sample(size, 0)
            seconds, calls = float(window.sum()) / 1e9 / size, calls + size
            warm.add(window, float(window.sum()) / 1e9)
        self._columns |= {"warmup_calls": calls, "warmup_s": warm.seconds}
        if not warm.steady:
            self._ended = {
                "status": "not-stationary",
                "reason": f"no steady state within {plan.max_warmup_s:g} s of warm-up "
                f"({calls} calls); raise max_warmup_s",
            }

    def take_pace(self) -> None:
        """What the session finishes with its slots never empty; settles rates that rest on it."""
        slots = self._load.slots
        served = self._session.serve_clients(slots, slots, PACE_S, None)
        self._paces.append(len(served.finish) / (int(served.finish.max()) / 1e9))
        if len(self._paces) < PACE_TURNS:
            return
        pace = float(np.median(self._paces))
        self._pace = self._columns["back_to_back_requests_per_s"] = pace
        if self._load.rate_share is not None:
            self._rate = self._load.rate_share * pace
        if self._load.capacity:
            self._begin_search(pace)

    def _begin_search(self, pace: float) -> None:
        """Refused where the looks at its first rate could not show that it keeps the SLO."""
        load, slo, alpha = self._load, self._slo, 1 - self._plan.confidence
        assert slo is not None, "the suite file asks for one"
        start, seconds = FIRST_PROBE * pace, load.episode_seconds
        needed = fewest_requests(slo.share, alpha, load.most_turns)
        # Of one episode, its ramp-up included.
        an_episode = needed / MOST_LOOKS_AT_A_RATE / (1 - RAMP_UP)
        if (load.requests or start * (seconds or 0.0)) < an_episode:
            enough = (
                f"requests of at least {math.ceil(an_episode)}"
                if seconds is None
                else f"seconds of at least {math.ceil(10 * an_episode / start) / 10:g}"
            )
            self._ended = {
                "status": "unsupported",
                "reason": f"{slo} takes {needed} requests without a miss to be shown; at "
                f"{start:.3g}/s, half of what it finishes back to back, {MOST_LOOKS_AT_A_RATE} "
                f"episodes do not have them; give {enough}",
            }
            return
        self._search = CapacitySearch(
            slo,
            start,
            burstiness=load.shape,
            alpha=alpha,
            probes=load.most_turns,
            resolution=load.resolution or 1.1,
            lowest=0.0 if seconds is None else an_episode / seconds,
            highest=HIGHEST_PROBE * pace,
        )

    def _more_to_search(self) -> str:
        """What a search that met the SLO nowhere can be given."""
        assert self._search is not None
        if self._search.found.missed is None:
            return "requests" if self._load.requests else "seconds"
        # It goes down until its episodes are used up or too short to decide a lower rate.
        used_up = len(self._traces) >= self._load.most_turns
        return f"{'probes' if used_up else 'seconds'} to look lower"

    def take_turn(self, number: int) -> None:
        """One episode, its surroundings read before and after it."""
        rate = self._rate if self._search is None else self._search.next_rate()
        before, start = self._surroundings.read(), time.perf_counter()
        served, end_ns = self._closed() if rate is None else self._open(rate, number)
        seconds = time.perf_counter() - start
        seen = self._surroundings.seen(before, seconds)
        trace = Trace(served.arrival, served.start, served.finish, end_ns, self._load.slots)
        calls = (trace.finish - trace.start)[trace.served]
        self._blocks.append(Block(calls, seconds, number, seen))
        self._traces.append(trace)
        self._rates.append(rate)
        if self._search is not None:
            assert rate is not None
            self._search.add(rate, trace)

    def _open(self, rate: float, number: int) -> tuple[Served, int]:
        load = self._load
        due = arrivals(
            rate,
            load.shape,
            (self._seed, number),
            seconds=load.episode_seconds,
            requests=load.requests,
        )
        seconds = load.episode_seconds
        end_ns = int(due[-1]) + 1 if seconds is None else round(seconds * 1e9)
        backlog = backlog_ns(end_ns, self._slo, 1e9 * load.slots / self._pace)
        return self._session.serve(due, end_ns + backlog, load.slots), end_ns

    def _closed(self) -> tuple[Served, int]:
        load, seconds = self._load, self._load.episode_seconds
        assert load.concurrency is not None
        served = self._session.serve_clients(load.concurrency, load.slots, seconds, load.requests)
        return served, closed_end_ns(served, seconds)

    def outcome(self) -> Outcome:
        """The row, without a latency where the session is saturated or failed."""
        columns = {**self._columns, "contract_clock": "host", "contract_synchronised": True}
        columns |= {
            "requested_requests_per_s": self._rate,
            "episodes": len(self._traces),
            "timed_s": sum(block.seconds for block in self._blocks),
            "samples": sum(int(trace.completed.sum()) for trace in self._traces),
            **rows.conditions(conditions_of(self._blocks)),
        }
        columns |= self._ended or self._measured()
        if self._ended is None:
            try:
                columns |= memory_columns(self._session, self._feeds)
                columns |= dict.fromkeys(PEAKS)
            except rows.SESSION_FAILURES as error:
                self._session.abandon_if_dead(error)
                columns |= rows.failure(error)
        stored = load_rows.samples(self._traces, self._rates, samples_of(self._blocks))
        return Outcome(self._cell, columns, stored)

    def _measured(self) -> dict[str, Any]:
        """Status and figures of a cell that had all of its turns."""
        traces, rate, row = self._traces, self._rate, {"status": "ok"}
        if self._search is not None:
            found = self._search.found
            row |= load_rows.capacity(found)
            if found.met is None:
                # Nothing was served as it should be: no rate has latencies that are worth telling.
                reason = f"{found.reason}; raise {self._more_to_search()}"
                return row | {"status": "not-stationary", "reason": reason}
            traces, rate = self._search.traces(found.met), found.met
        queue = None
        if rate is not None:
            offered = saturation(traces, rate)
            queue = Queue(offered.load, self._load.shape)
            row |= load_rows.rates(offered)
            if offered.saturated:
                row |= {"status": "not-stationary", "reason": offered.reason}
        told = figures(traces, self._slo, self._plan.confidence, queue)
        if told is None:
            came = any(trace.kept.any() for trace in traces)
            nothing = "no request was served in time" if came else "no request came"
            return row | {
                "status": "not-stationary",
                "reason": row.get("reason") or f"{nothing} after the ramp-up; raise seconds",
            }
        row |= load_rows.throughput(told, self._slo)
        return row if row["status"] != "ok" else row | load_rows.latencies(told)
