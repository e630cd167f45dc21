"""One build on one runtime: opened in a worker, checked, scored, and kept ready for the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compile.artifact import Artifact
from compile.signature import Feeds
from quantize.recipe import Tolerance
from runtimes.client import Worker, WorkerError
from runtimes.session import SessionOptions
from suites import rows
from suites.blocks import SessionKey
from suites.correctness import compare, require
from suites.suite_file import RuntimeEntry


@dataclass
class LiveSession:
    """A session and the worker that holds it. A worker that died is replaced when asked again."""

    key: SessionKey
    artifact: Artifact
    tolerance: Tolerance
    entry: RuntimeEntry
    threads: int
    log_dir: Path
    open_s: float = 0.0
    """Starting the worker and opening the artifact, the last time."""
    columns: dict[str, Any] = field(default_factory=dict)
    """What all cells of the session share in their rows."""
    _worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        """The open worker. Raises what ``Worker.start`` and ``Worker.open`` raise."""
        if self._worker is None:
            start = time.perf_counter()
            worker = Worker.start(
                self.key.runtime,
                log_dir=self.log_dir,
                python=self.entry.python,
                threads=self.threads,
                memory_limit_bytes=_bytes(self.entry.memory_limit_gib),
                timeout_s=self.entry.timeout,
            )
            try:
                worker.open(self.artifact.folder, self.options)
            except BaseException:
                worker.kill()
                raise
            self._worker = worker
            self.open_s = time.perf_counter() - start
        return self._worker

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
        fidelity = compare([self.worker.run(feeds)], [reference])
        require(fidelity, self.tolerance)
        self.worker.prepare(feeds)
        return {
            **rows.fidelity(fidelity, self.tolerance),
            **rows.contract(self.worker.contract()),
            **rows.proof(self.worker.proof()),
        }

    def sample(self, calls: int, rewarm: int) -> np.ndarray:
        """The measuring loop's ``Sampler``."""
        return self.worker.sample(calls, unrecorded=rewarm).ns

    def abandon_if_dead(self, error: Exception) -> None:
        """After a crash, a timeout or a kill for memory the next use starts a new worker."""
        if isinstance(error, WorkerError) and self._worker is not None and self._worker.dead:
            self._worker.kill()
            self._worker = None

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)
