"""A candidate and a baseline of one session, measured against each other in pairs of processes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compile.artifact import Artifact
from compile.signature import Feeds
from runtimes.session import MemoryBreakdown
from suites import rows
from suites.bench import Bench
from suites.blocks import SessionKey
from suites.cell import Cell
from suites.correctness import compare
from suites.gate.pair import PairPlan, PairSample, measure_pair
from suites.gate.verdict import PairedVerdict
from suites.measure.meters.load import OtherLoad
from suites.measure.meters.surroundings import Surroundings
from suites.measure.plan import MeasurePlan
from suites.progress import Display
from suites.sessions import LiveSession, load_together

MEMORY_PAIRS = 3
"""Pairs in which memory is read, of cells that have a rule of it: reading takes a call, on a GPU a
second session."""


@dataclass(frozen=True)
class Side:
    """One of the two: how to begin a session of it, and what it is fed and held to."""

    artifact: Artifact
    begin: Callable[[], LiveSession]
    feeds: Mapping[str, Feeds]
    """By workload."""
    truths: Mapping[str, Feeds] | None
    """By workload; None for a kept artifact, which was held to its truth when it was kept."""
    slow_down: float = 0.0
    """Share of its own time that each call is made to last longer, to see whether it is noticed."""

    @classmethod
    def of(
        cls, bench: Bench, key: SessionKey, artifact: Artifact, truths: Mapping[str, Feeds] | None
    ) -> Side:
        feeds = {name: bench.feed(name, artifact.signature) for name in bench.workloads}
        return cls(artifact, lambda: bench.session(key, artifact), feeds, truths)


@dataclass
class Contest:
    """One session's cells, which share their pairs of processes."""

    key: SessionKey
    cells: Mapping[str, Cell]
    """By workload."""
    candidate: Side
    baseline: Side
    verdicts: dict[str, PairedVerdict]
    """By workload, of those with a latency rule."""
    with_memory: frozenset[str] = frozenset()
    """Workloads with a rule of memory."""
    samples: dict[str, list[PairSample]] = field(default_factory=dict)
    memory: dict[str, list[tuple[MemoryBreakdown, MemoryBreakdown]]] = field(default_factory=dict)
    """By workload: candidate's and baseline's."""
    unlike: str = ""
    """How the two sides' fairness contracts differ, if they do."""
    failure: Exception | None = None
    pairs: int = 0
    seconds: float = 0.0
    """That the pairs took, from the first process's start to the last one's end."""

    @property
    def finished(self) -> bool:
        if self.failure is not None:
            return True
        # One pair in any case: what the contracts and the outputs are is known from it.
        return self.pairs >= self._least and not self._open()

    @property
    def progress(self) -> float:
        """The share of its way that is behind the workload that has most of it left, 0 to 1."""
        if self.finished:
            return 1.0
        ways = [verdict.progress for verdict in self.verdicts.values()]
        return min([self.pairs / self._least, *ways, 1.0])

    @property
    def _least(self) -> int:
        return MEMORY_PAIRS if self.with_memory else 1

    def _open(self) -> list[str]:
        return [workload for workload, v in self.verdicts.items() if not v.finished]

    def next_pair(self, candidate_first: bool, plan: PairPlan) -> None:
        """One more pair of fresh processes, for every workload that is not decided yet.

        Raises whatever a session raises; the two processes are gone afterwards in any case.
        """
        start = time.perf_counter()
        candidate, baseline = self.candidate.begin(), self.baseline.begin()
        order = (candidate, baseline) if candidate_first else (baseline, candidate)
        try:
            load_together(order)
            pids = [session.worker.pid for session in order]
            around = Surroundings([OtherLoad(pids, MeasurePlan.disturbed_cores)])
            reading = self.with_memory if self.pairs < MEMORY_PAIRS else frozenset[str]()
            open_now = self._open()
            for workload in self.cells:
                if self.pairs and workload not in (*open_now, *reading):
                    continue
                self._put_in_place(candidate, baseline, candidate_first, workload)
                verdict = self.verdicts.get(workload)
                if verdict is not None and not verdict.finished:
                    sample = measure_pair(candidate, baseline, candidate_first, plan, around)
                    self.samples.setdefault(workload, []).append(sample)
                    verdict.add(sample.difference)
                if workload in reading:
                    self._read_memory(candidate, baseline, candidate_first, workload)
            self.pairs += 1
        finally:
            for session in order:
                session.abandon()
            self.seconds += time.perf_counter() - start

    @property
    def own_seconds(self) -> float:
        """What a pair costs beyond its timed calls: starting, opening, checking, ending."""
        timed = sum(each.seconds for samples in self.samples.values() for each in samples)
        return (self.seconds - timed) / max(self.pairs, 1)

    def _put_in_place(
        self, candidate: LiveSession, baseline: LiveSession, candidate_first: bool, workload: str
    ) -> None:
        """Both sides' calls ready for the clock, in the order of the coin: what one leaves in the
        caches, the other must be as likely to find."""
        sides = [(candidate, self.candidate), (baseline, self.baseline)]
        for session, side in sides if candidate_first else reversed(sides):
            feeds = side.feeds[workload]
            if not self.pairs and side.truths is not None:
                # Not more than the other side is asked: what a process did before may show.
                session.put_in_place(feeds, side.truths[workload], side.slow_down)
                continue
            if not self.pairs:
                outputs = [session.worker.run(feeds)]
                compare(outputs, outputs)  # raises Incorrect for what is not finite
            session.worker.prepare(feeds, slow_down=side.slow_down)
        if not self.pairs:
            self.unlike = self.unlike or _unlike(candidate, baseline)

    def _read_memory(
        self, candidate: LiveSession, baseline: LiveSession, candidate_first: bool, workload: str
    ) -> None:
        sides = [(candidate, self.candidate), (baseline, self.baseline)]
        read = {
            side is self.candidate: session.worker.memory(side.feeds[workload])
            for session, side in (sides if candidate_first else reversed(sides))
        }
        self.memory.setdefault(workload, []).append((read[True], read[False]))

    def memory_of(self, workload: str, quantity: str) -> list[tuple[int, int]] | None:
        """Candidate's and baseline's bytes, pair by pair; None where a runtime does not tell."""
        read = [
            (getattr(a, quantity), getattr(b, quantity)) for a, b in self.memory.get(workload, [])
        ]
        if not read or any(value is None for pair in read for value in pair):
            return None
        return read


def until_decided(
    contests: Sequence[Contest], pairing: random.Random, plan: PairPlan, display: Display
) -> None:
    """Pair after pair, the contests taking turns in random order, until all are decided."""
    while live := [contest for contest in contests if not contest.finished]:
        pairing.shuffle(live)
        for contest in live:
            display.stage(
                f"{contest.key.label}, pair {contest.pairs + 1}",
                sum(c.progress for c in contests) / len(contests),
            )
            try:
                contest.next_pair(pairing.random() < 0.5, plan)
            except rows.SESSION_FAILURES as error:
                contest.failure = error


def _unlike(candidate: LiveSession, baseline: LiveSession) -> str:
    mine: dict[str, Any] = vars(candidate.worker.contract())
    theirs: dict[str, Any] = vars(baseline.worker.contract())
    return ", ".join(
        f"{name} {theirs[name]!r} -> {mine[name]!r}" for name in mine if mine[name] != theirs[name]
    )
