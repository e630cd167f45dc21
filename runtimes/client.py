"""The parent's side of a worker: start it, ask it, and say how it ended if it does not answer.

Light on purpose: imports NumPy and the standard library only. Every wait blocks in the kernel on
the worker's socket, so that the parent uses no CPU while a worker is timed.

A worker runs only while it has a request to answer and is stopped otherwise (SIGSTOP). Thread
pools spin for up to a fifth of a second after a call, and libraries keep threads with timers;
forbidding them to would slow the timed call itself, and waiting for them to sleep would cost a
suite minutes. A stopped process uses no CPU, whatever it was doing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from compile.errors import Corrupted, Incorrect, InputError, Unsupported
from compile.signature import Feeds
from runtimes import registry
from runtimes.likelihood import Answers
from runtimes.session import (
    Availability,
    FairnessContract,
    MemoryBreakdown,
    Outputs,
    Proof,
    SessionOptions,
)
from runtimes.wire import LABELS, Channel, PeerGone, WireError

WORKER = Path(__file__).resolve().with_name("worker.py")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Read once, when a library is loaded: they must be set before the worker starts."""
UNRECORDED_CALLS = 3
END_PATIENCE_S = 10.0
LOG_TAIL_BYTES = 16 << 10
OUT_OF_MEMORY_WORDS = ("bad_alloc", "memoryerror", "out of memory", "cannot allocate memory")


class WorkerError(RuntimeError):
    """The runtime raised something of its own, or its process failed. One line says what."""


class WorkerCrashed(WorkerError):
    """The process is gone. The message names the signal or the exit code and its last words."""


class WorkerTimeout(WorkerError):
    """No answer in time. The worker and whatever it started have been killed."""


class WorkerOutOfMemory(WorkerError):
    """Memory ran out: an allocation was refused, or the kernel killed the worker for its size."""


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

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.ns * 1e9


class Worker:
    """A running worker process. Use as a context manager, or ``close`` it.

    Every request takes ``timeout_s``, by default the one given to ``start``. Each may raise
    InputError, Unsupported, Incorrect or Corrupted as the worker did, WorkerError for any other
    exception there, and WorkerCrashed, WorkerTimeout or WorkerOutOfMemory. After the last three
    the process is gone (out of memory that the worker survived leaves it running).

    The kernel kills the worker when the *thread* that started it ends.
    """

    def __init__(
        self,
        runtime: str,
        interpreter: str,
        process: subprocess.Popen[bytes],
        channel: Channel,
        log: Path,
        threads: int,
        timeout_s: float,
    ) -> None:
        self.runtime = runtime
        self.threads = threads
        self.timeout_s = timeout_s
        self.log = log
        """The worker's stdout and stderr."""
        self._interpreter = interpreter
        self._process = process
        self._channel = channel
        self._oom_kills = _oom_kills()
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

        ``python`` names another environment's interpreter (default: this one). It runs in
        isolated mode then, because this environment's ``PYTHONPATH`` is not meant for it.
        ``memory_limit_bytes`` bounds its private writable memory (RLIMIT_DATA).

        Raises InputError for an unknown runtime or interpreter.
        """
        registry.entry(runtime)
        if threads < 1:
            raise InputError(f"threads must be at least 1, not {threads}")
        mode = ["-P"] if python is None else ["-I"]
        interpreter = sys.executable if python is None else _find_interpreter(python)
        log_dir.mkdir(parents=True, exist_ok=True)
        log = log_dir / f"{runtime}-{uuid.uuid4().hex[:8]}.log"
        ours, theirs = socket.socketpair()
        command = [
            *(interpreter, *mode, str(WORKER)),
            *("--socket", str(theirs.fileno()), "--parent", str(os.getpid())),
            *("--runtime", runtime),
            *(["--memory-limit", str(memory_limit_bytes)] if memory_limit_bytes else []),
        ]
        environment = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, str(threads)),
            "PYTHONUNBUFFERED": "1",
            **(env or {}),
        }
        with log.open("ab") as output, theirs:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise InputError(
                    f"python = {interpreter!r} of runtime {runtime!r} cannot be started: "
                    f"{error.strerror}"
                ) from error
        return cls(runtime, interpreter, process, Channel(ours), log, threads, timeout_s)

    def wait_until_up(self) -> None:
        """Raises Unsupported where the interpreter cannot run a worker."""
        try:
            self._answer(self.timeout_s)
        except WorkerCrashed as error:
            raise Unsupported(f"{self._interpreter} cannot run a worker: {error}") from error
        except BaseException:
            self.kill()
            raise

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

    def prepare(self, feeds: Feeds, timeout_s: float | None = None) -> float:
        """Fix the call that ``sample`` and ``throughput`` repeat. Returns the seconds it took."""
        return self._ask("prepare", feeds=feeds, timeout_s=timeout_s)[0]["prepare_ns"] / 1e9

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
        return Throughput(body["calls"], body["ns"], body["page_faults"])

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
        if self._end is None and self._process.returncode is None:
            # Whatever goes wrong with the farewell, the worker is killed below.
            with contextlib.suppress(PeerGone, WireError, TimeoutError, subprocess.TimeoutExpired):
                self._signal(signal.SIGCONT)
                self._channel.send({"command": "close"}, timeout=END_PATIENCE_S)
                self._channel.receive(timeout=END_PATIENCE_S)
                self._process.wait(END_PATIENCE_S)
        self.kill()

    def kill(self) -> None:
        """Kill the worker and every process that it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
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
        self._signal(signal.SIGCONT)
        try:
            self._channel.send({"command": command, **(body or {})}, feeds, timeout_s)
        except PeerGone:
            self._fail_gone()
        except TimeoutError:
            self._fail_late(timeout_s)
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> tuple[dict[str, Any], Feeds]:
        try:
            body, arrays = self._channel.receive(timeout_s)
        except PeerGone:
            self._fail_gone()
        except WireError as error:
            # Where in the stream the next message begins is not known any more.
            self.kill()
            self._end = WorkerCrashed(f"{self.runtime} sent what cannot be read: {error}")
            raise self._end from error
        except TimeoutError:
            self._fail_late(timeout_s)
        self._stop()
        if "error" in body:
            _raise_again(body["error"]["kind"], body["error"]["message"])
        return body["ok"], arrays

    def _stop(self) -> None:
        """Stop the worker and its threads where they are, and wait until they stand still."""
        self._signal(signal.SIGSTOP)
        # Its end is waited for too, or a worker that died meanwhile would be waited for in vain.
        # It is left to be reaped by whoever asks the process next.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker and to every process that it started."""
        with contextlib.suppress(ProcessLookupError):  # it ended and left nothing behind
            os.killpg(self.pid, number)

    def _fail_late(self, timeout_s: float) -> NoReturn:
        self.kill()
        self._end = WorkerTimeout(f"{self.runtime} did not answer within {timeout_s:g} s")
        raise self._end

    def _fail_gone(self) -> NoReturn:
        try:
            code = self._process.wait(END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            code = 0  # it closed its channel and lives on
        self.kill()
        last = _last_words(self.log)
        if code == -signal.SIGKILL and _oom_kills() != self._oom_kills:
            self._end = WorkerOutOfMemory(f"{self.runtime} was killed by the kernel: out of memory")
        elif code != 0 and any(word in last.lower() for word in OUT_OF_MEMORY_WORDS):
            self._end = WorkerOutOfMemory(f"{self.runtime} ran out of memory: {last}")
        else:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            words = f"; last words: {last}" if last else ""
            self._end = WorkerCrashed(f"{self.runtime} died of {how}{words}")
        raise self._end


def _find_interpreter(python: str) -> str:
    found = shutil.which(Path(python).expanduser())
    if found is None:
        raise InputError(f"python = {python!r}: no such interpreter")
    return str(Path(found).absolute())  # not resolved: a venv is found by the link's own place


def _raise_again(kind: str, message: str) -> NoReturn:
    for known in (InputError, Unsupported, Incorrect, Corrupted):
        if kind == known.__name__:
            raise known(message)
    raise WorkerOutOfMemory(message) if kind == "OutOfMemory" else WorkerError(message)


def _last_words(log: Path) -> str:
    """The last line that the worker printed before Python's own report of a fatal signal."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        text = file.read().decode(errors="replace")
    before_report = text.partition("Fatal Python error")[0]
    lines = [line.strip() for line in before_report.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def _oom_kills() -> int | None:
    """Processes that the kernel has killed for want of memory since it started.

    None where it does not tell; a SIGKILL of unknown origin then counts as an ordinary crash.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
