"""The parent's side of a worker: start it, ask it, and say how it ended if it does not answer.

Light on purpose: imports NumPy and the standard library only. Every wait blocks in the kernel on
the worker's socket, so that the parent uses no CPU while a worker is timed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from compile.errors import Corrupted, Incorrect, InputError, Unsupported
from compile.signature import Feeds
from runtimes import registry
from runtimes.failures import WorkerCrashed, WorkerError, WorkerOutOfMemory, WorkerTimeout
from runtimes.likelihood import Answers
from runtimes.process import END_PATIENCE_S, WorkerProcess
from runtimes.serving import Served
from runtimes.session import (
    Availability,
    FairnessContract,
    MemoryBreakdown,
    Outputs,
    Proof,
    SessionOptions,
)
from runtimes.wire import ARRIVALS, LABELS, Channel, PeerGone, WireError

UNRECORDED_CALLS = 3


@dataclass(frozen=True)
class Opened:
    """What opening cost."""

    seconds: float
    peak_bytes: int | None
    """Largest resident set while opening; None where the kernel does not tell."""


@dataclass(frozen=True)
class Samples:
    """One block of timed calls, int64 nanoseconds each."""

    ns: np.ndarray
    unrecorded_ns: np.ndarray
    """The calls before them that only woke caches and threads."""


@dataclass(frozen=True)
class Throughput:
    """Calls made back to back, and the nanoseconds they took together."""

    calls: int
    ns: int
    page_faults: int
    """Pages that the kernel supplied meanwhile: memory that was given back and taken again."""
    grown_bytes: int | None
    """How much the resident set grew from the first of the calls to the last."""
    peak_bytes: int | None
    """Largest resident set meanwhile. Both None where the kernel does not tell."""

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.ns * 1e9


class Worker:
    """A running worker process. Use as a context manager, or ``close`` it.

    Every request takes ``timeout_s``, by default the one given to ``start``. Each may raise
    InputError, Unsupported, Incorrect or Corrupted as the worker did, WorkerError for any other
    exception there, and WorkerCrashed, WorkerTimeout or WorkerOutOfMemory. After the last three
    the process is gone (out of memory that the worker survived leaves it running).

    The kernel kills the worker when the *thread* that spawned it ends.
    """

    def __init__(
        self, process: WorkerProcess, channel: Channel, threads: int, timeout_s: float
    ) -> None:
        self.threads = threads
        self.timeout_s = timeout_s
        self._process = process
        self._channel = channel
        self._end: WorkerError | None = None

    @classmethod
    def start(cls, runtime: str, **settings: Any) -> Worker:
        """``spawn``, and wait until the worker is up."""
        worker = cls.spawn(runtime, **settings)
        worker.wait_until_up()
        return worker

    @classmethod
    def spawn(
        cls,
        runtime: str,
        *,
        log_dir: Path,
        python: str | None = None,
        threads: int = 1,
        env: Mapping[str, str] | None = None,
        memory_limit_bytes: int | None = None,
        timeout_s: float = 600.0,
    ) -> Worker:
        """Start the process, without waiting for it: ``wait_until_up`` comes before any request.

        ``python``, ``env`` and ``memory_limit_bytes`` are those of ``WorkerProcess.spawn``.
        Raises InputError for an unknown runtime or interpreter.
        """
        registry.entry(runtime)
        if threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        process, channel = WorkerProcess.spawn(
            runtime,
            log_dir=log_dir,
            python=python,
            threads=threads,
            env=env,
            memory_limit_bytes=memory_limit_bytes,
        )
        return cls(process, channel, threads, timeout_s)

    def wait_until_up(self) -> None:
        """Raises Unsupported where the interpreter cannot run a worker."""
        try:
            self._answer(self.timeout_s)
        except WorkerCrashed as error:
            raise Unsupported(
                f"{self._process.interpreter} cannot run a worker: {error}"
            ) from error
        except BaseException:
            self.kill()
            raise

    @property
    def log(self) -> Path:
        """Where its stdout and stderr go."""
        return self._process.log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether it crashed, was killed or timed out: every further request would fail."""
        return self._end is not None

    def availability(self, timeout_s: float | None = None) -> Availability:
        body, _ = self._ask("availability", timeout_s=timeout_s)
        return Availability(**body)

    def open(
        self, folder: Path, options: SessionOptions | None = None, timeout_s: float | None = None
    ) -> Opened:
        """Open the artifact in ``folder``. ``options.threads`` must be what ``start`` was given."""
        options = options or SessionOptions(threads=self.threads)
        if options.threads != self.threads:
            raise ValueError(f"the worker was started for {self.threads} threads")
        body, _ = self._ask(
            "open", {"folder": str(folder), "options": asdict(options)}, timeout_s=timeout_s
        )
        return Opened(body["open_ns"] / 1e9, body["open_peak_bytes"])

    def run(self, feeds: Feeds, timeout_s: float | None = None) -> Outputs:
        """One call, for its outputs."""
        return self._ask("run", feeds=feeds, timeout_s=timeout_s)[1]

    def answer(self, feeds: Feeds, labels: np.ndarray, timeout_s: float | None = None) -> Answers:
        """One call, its first output reduced to what it says of ``labels``; Incorrect where its
        logits are not finite."""
        arrays = self._ask("answer", feeds={**feeds, LABELS: labels}, timeout_s=timeout_s)[1]
        return Answers(**arrays)

    def prepare(
        self, feeds: Feeds, timeout_s: float | None = None, slow_down: float = 0.0
    ) -> float:
        """Fix the call that ``sample``, ``throughput`` and ``serve`` repeat. Returns the seconds
        that it took.

        ``slow_down`` makes every call last that share longer, by spinning: a slow-down of known
        size, with which whoever claims to notice one can be tested.
        """
        asked = {"slow_down": slow_down}
        return self._ask("prepare", asked, feeds, timeout_s)[0]["prepare_ns"] / 1e9

    def sample(
        self, n: int, unrecorded: int = UNRECORDED_CALLS, timeout_s: float | None = None
    ) -> Samples:
        """Time ``n`` prepared calls one by one, after ``unrecorded`` ones."""
        _, arrays = self._ask("sample", {"n": n, "unrecorded": unrecorded}, timeout_s=timeout_s)
        return Samples(arrays["samples_ns"], arrays["unrecorded_ns"])

    def throughput(
        self, seconds: float, unrecorded: int = UNRECORDED_CALLS, timeout_s: float | None = None
    ) -> Throughput:
        """Repeat the prepared call back to back for ``seconds``."""
        body, _ = self._ask(
            "throughput", {"seconds": seconds, "unrecorded": unrecorded}, timeout_s=timeout_s
        )
        return Throughput(**body)

    def serve(
        self,
        arrivals: np.ndarray,
        limit_ns: int,
        *,
        slots: int = 1,
        unrecorded: int = UNRECORDED_CALLS,
        timeout_s: float | None = None,
    ) -> Served:
        """Make the prepared call for each request of a schedule, int64 nanoseconds from now.

        ``slots`` calls run at the same time; nothing is begun later than ``limit_ns``.
        """
        asked = {"slots": slots, "unrecorded": unrecorded, "limit_ns": limit_ns}
        return Served(**self._ask("serve", asked, {ARRIVALS: arrivals}, timeout_s)[1])

    def serve_clients(
        self,
        concurrency: int,
        *,
        limit_ns: int | None = None,
        requests: int | None = None,
        slots: int = 1,
        unrecorded: int = UNRECORDED_CALLS,
        timeout_s: float | None = None,
    ) -> Served:
        """The same for ``concurrency`` clients in a closed loop, who send until ``limit_ns`` or
        ``requests`` in all."""
        asked = {
            "slots": slots,
            "unrecorded": unrecorded,
            "limit_ns": limit_ns,
            "concurrency": concurrency,
            "requests": requests,
        }
        return Served(**self._ask("serve", asked, timeout_s=timeout_s)[1])

    def memory(self, feeds: Feeds, timeout_s: float | None = None) -> MemoryBreakdown:
        """Memory after a call with ``feeds``; its peak covers that call alone."""
        body, _ = self._ask("memory", feeds=feeds, timeout_s=timeout_s)
        return MemoryBreakdown(**body)

    def proof(self, timeout_s: float | None = None) -> Proof:
        return Proof(**self._ask("proof", timeout_s=timeout_s)[0])

    def contract(self, timeout_s: float | None = None) -> FairnessContract:
        return FairnessContract(**self._ask("contract", timeout_s=timeout_s)[0])

    def close(self) -> None:
        """End the worker in good order, or kill it if it does not end."""
        if self._end is None and not self._process.ended:
            # Whatever goes wrong with the farewell, the worker is killed below.
            with contextlib.suppress(PeerGone, WireError, TimeoutError, subprocess.TimeoutExpired):
                self._process.resume()
                self._channel.send({"command": "close"}, timeout=END_PATIENCE_S)
                self._channel.receive(timeout=END_PATIENCE_S)
                self._process.wait()
        self.kill()

    def kill(self) -> None:
        """Kill the worker and every process that it started."""
        self._process.kill()
        self._channel.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an exception (a Ctrl-C included) the channel may hold half an answer.
        self.close() if kind is None else self.kill()

    def _ask(
        self,
        command: str,
        body: Mapping[str, Any] | None = None,
        feeds: Feeds | None = None,
        timeout_s: float | None = None,
    ) -> tuple[dict[str, Any], Feeds]:
        if self._end is not None:
            raise self._end
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        self._process.resume()
        try:
            self._channel.send({"command": command, **(body or {})}, feeds, timeout_s)
        except PeerGone:
            self._fail_gone()
        except TimeoutError:
            self._fail_late(timeout_s)
        except WireError as error:
            self._process.stop()
            raise WorkerError(f"the request cannot be sent: {error}") from error
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> tuple[dict[str, Any], Feeds]:
        try:
            body, arrays = self._channel.receive(timeout_s)
        except PeerGone:
            self._fail_gone()
        except WireError as error:
            # Where in the stream the next message begins is not known any more.
            self.kill()
            self._end = WorkerCrashed(f"{self._process.runtime} sent what cannot be read: {error}")
            raise self._end from error
        except TimeoutError:
            self._fail_late(timeout_s)
        self._process.stop()
        if "error" in body:
            _raise_again(body["error"]["kind"], body["error"]["message"])
        return body["ok"], arrays

    def _fail_late(self, timeout_s: float) -> NoReturn:
        self.kill()
        name = self._process.runtime
        self._end = WorkerTimeout(f"{name} did not answer within {timeout_s:.3g} s")
        raise self._end

    def _fail_gone(self) -> NoReturn:
        self._end = self._process.end()
        self._channel.close()
        raise self._end


def _raise_again(kind: str, message: str) -> NoReturn:
    for known in (InputError, Unsupported, Incorrect, Corrupted):
        if kind == known.__name__:
            raise known(message)
    raise WorkerOutOfMemory(message) if kind == "OutOfMemory" else WorkerError(message)
