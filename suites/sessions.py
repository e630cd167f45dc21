"""One build on one runtime: opened in a worker, checked, scored, and kept ready for the clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from compile.artifact import Artifact
from compile.errors import InputError, Unsupported
from compile.signature import Feeds
from quantize.recipe import Tolerance
from runtimes.client import Worker
from runtimes.failures import WorkerError
from runtimes.serving import Served
from runtimes.session import SessionOptions
from suites import rows
from suites.blocks import SessionKey
from suites.correctness import Fidelity, compare, require
from suites.suite_file import RuntimeEntry


@dataclass
class LiveSession:
    """A session and the worker that holds it. A worker that died is replaced when asked again.

    It is begun in three steps, so that a block's workers can import their libraries side by side
    and still open their artifacts one at a time: ``spawn``, ``load``, and the first use of
    ``worker``, which takes the steps that were left out.
    """

    key: SessionKey
    artifact: Artifact
    tolerance: Tolerance
    entry: RuntimeEntry
    threads: int
    log_dir: Path
    start_s: float = 0.0
    """Until the worker was up and its libraries imported, waiting for the others' aside."""
    open_s: float = 0.0
    """Opening the artifact, by the worker's clock, the last time."""
    open_peak_bytes: int | None = None
    """Largest resident set meanwhile."""
    columns: dict[str, Any] = field(default_factory=dict)
    """What all cells of the session share in their rows."""
    _call_s: float = 0.0
    """How long one call took on average, when it was last sampled."""
    _worker: Worker | None = None
    _loaded: bool = False
    _opened: bool = False

    def spawn(self) -> None:
        """Start the worker's process without waiting for it."""
        self._worker = Worker.spawn(
            self.key.runtime,
            log_dir=self.log_dir,
            python=self.entry.python,
            threads=self.threads,
            memory_limit_bytes=_bytes(self.entry.memory_limit_gib),
            timeout_s=self.entry.timeout,
        )

    def load(self) -> None:
        """Wait until the worker is up and has imported its libraries. May run in a thread; the
        worker itself must have been spawned by one that outlives it."""
        assert self._worker is not None, "spawn comes first"
        start = time.perf_counter()
        self._worker.wait_until_up()
        self._worker.availability()
        self._loaded = True
        self.start_s = time.perf_counter() - start

    @property
    def worker(self) -> Worker:
        """The worker with the artifact open. Raises what its three steps raise."""
        if self._worker is None:
            self.spawn()
        assert self._worker is not None
        try:
            if not self._loaded:
                self.load()
            if not self._opened:
                opened = self._worker.open(self.artifact.folder, self.options)
                self.open_s, self.open_peak_bytes = opened.seconds, opened.peak_bytes
                self._opened = True
        except BaseException:
            self.abandon()
            raise
        return self._worker

    @property
    def timings(self) -> dict[str, float]:
        """The row's columns of how long the worker took to be ready."""
        return {"start_s": self.start_s, "open_s": self.open_s}

    def apart(self, threads: int) -> LiveSession:
        """Another session of the same build on the same runtime, in a worker of its own."""
        return LiveSession(
            self.key, self.artifact, self.tolerance, self.entry, threads, self.log_dir
        )

    @property
    def options(self) -> SessionOptions:
        return SessionOptions(
            threads=self.threads,
            device=self.key.device,
            attention=self.key.attention,
            extra=dict(self.entry.model_extra or {}),
        )

    def ready(self, feeds: Feeds, reference: Feeds) -> dict[str, Any]:
        """Check one call against its reference and put it in place for the clock.

        Returns the row's columns. Raises Incorrect outside the recipe's tolerance, and whatever
        the worker raises.
        """
        fidelity = self.put_in_place(feeds, reference)
        return {
            **rows.fidelity(fidelity, self.tolerance),
            **rows.contract(self.worker.contract()),
            **rows.proof(self.worker.proof()),
        }

    def put_in_place(self, feeds: Feeds, reference: Feeds, slow_down: float = 0.0) -> Fidelity:
        """``ready`` without asking the worker what it runs and how, the call slowed down by a share
        of its time if asked."""
        fidelity = compare([self.worker.run(feeds)], [reference])
        require(fidelity, self.tolerance)
        self.worker.prepare(feeds, slow_down=slow_down)
        return fidelity

    def sample(self, calls: int, rewarm: int) -> np.ndarray:
        """The measuring loop's ``Sampler``."""
        # The timeout is meant for one call; a block of slow ones takes several times as long.
        expected = (calls + rewarm) * self._call_s
        samples = self.worker.sample(
            calls, unrecorded=rewarm, timeout_s=self.entry.timeout + 3 * expected
        )
        self._call_s = float(samples.ns.mean()) / 1e9
        return samples.ns

    def serve(self, arrivals: np.ndarray, limit_ns: int, slots: int) -> Served:
        """One episode of an open loop, after a call of each slot that wakes caches and threads."""
        # The timeout is meant for one call; an episode lasts until its limit and one call longer.
        limit = self.entry.timeout + limit_ns / 1e9
        return self.worker.serve(arrivals, limit_ns, slots=slots, unrecorded=1, timeout_s=limit)

    def serve_clients(
        self, concurrency: int, slots: int, seconds: float | None, requests: int | None
    ) -> Served:
        """One episode of a closed loop; its clients' last requests are served after its end."""
        calls = (requests or 0) + concurrency
        expected = (seconds or 0.0) + calls * self._call_s
        return self.worker.serve_clients(
            concurrency,
            limit_ns=None if seconds is None else round(seconds * 1e9),
            requests=requests,
            slots=slots,
            unrecorded=1,
            timeout_s=self.entry.timeout + 3 * expected,
        )

    def abandon_if_dead(self, error: Exception) -> None:
        """After a crash, a timeout or a kill for memory the next use starts a new worker."""
        if isinstance(error, WorkerError) and self._worker is not None and self._worker.dead:
            self.abandon()

    def abandon(self) -> None:
        """Kill the worker, if there is one."""
        if self._worker is not None:
            self._worker.kill()
        self._worker, self._loaded, self._opened = None, False, False

    def close(self) -> None:
        """End the worker in good order, if there is one."""
        if self._worker is not None:
            self._worker.close()
        self._worker, self._loaded, self._opened = None, False, False

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A worker in a long call hears no farewell, and a Ctrl-C should not wait for its end.
        self.close() if kind is None else self.abandon()


LOADING_AT_ONCE = 2
"""Imports are bound by one core each; more at a time would only take more memory at once."""


def load_together(sessions: Sequence[LiveSession]) -> None:
    """Start the sessions' workers and let them import their libraries, two at a time.

    What goes wrong with one comes again, and alone, from ``LiveSession.worker``.
    """
    with ThreadPoolExecutor(LOADING_AT_ONCE) as pool:
        for session in sessions:
            try:
                session.spawn()
            except WorkerError:
                continue
            pool.submit(_loaded_or_abandoned, session)


def _loaded_or_abandoned(session: LiveSession) -> None:
    try:
        session.load()
    except (InputError, Unsupported, WorkerError):
        session.abandon()


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)
