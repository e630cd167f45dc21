"""A worker's process as its parent sees it: spawned, stopped while idle, and how it ended.

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
from pathlib import Path

from compile.errors import InputError
from runtimes.failures import WorkerCrashed, WorkerError, WorkerOutOfMemory
from runtimes.wire import Channel

WORKER = Path(__file__).resolve().with_name("worker.py")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Read once, when a library is loaded: they must be set before the worker starts."""
END_PATIENCE_S = 10.0
LOG_TAIL_BYTES = 16 << 10
OUT_OF_MEMORY_WORDS = ("bad_alloc", "memoryerror", "out of memory", "cannot allocate memory")


class WorkerProcess:
    """The process and its end of the channel. The kernel kills it when the *thread* that spawned
    it ends."""

    def __init__(
        self, runtime: str, interpreter: str, process: subprocess.Popen[bytes], log: Path
    ) -> None:
        self.runtime = runtime
        self.interpreter = interpreter
        self.log = log
        """The worker's stdout and stderr."""
        self._process = process
        self._oom_kills = _oom_kills()

    @classmethod
    def spawn(
        cls,
        runtime: str,
        *,
        log_dir: Path,
        python: str | None,
        threads: int,
        env: Mapping[str, str] | None,
        memory_limit_bytes: int | None,
    ) -> tuple[WorkerProcess, Channel]:
        """The process, and the channel over which it will say that it is up.

        ``python`` names another environment's interpreter (default: this one). It runs in
        isolated mode then, because this environment's ``PYTHONPATH`` is not meant for it.
        ``memory_limit_bytes`` bounds its private writable memory (RLIMIT_DATA). Raises InputError
        for an interpreter that does not exist or cannot be started.
        """
        mode = ["-P"] if python is None else ["-I"]
        interpreter = sys.executable if python is None else find_interpreter(python)
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
            except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
                ours.close()
                raise InputError(
                    f"python = {interpreter!r} of runtime {runtime!r} cannot be started: "
                    f"{error.strerror}"
                ) from error
            except OSError as error:
                ours.close()
                raise WorkerError(
                    f"{runtime}: no process could be started: {error.strerror}"
                ) from error
        return cls(runtime, interpreter, process, log), Channel(ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether its end has been seen."""
        return self._process.returncode is not None

    def stop(self) -> None:
        """Stop the process and its threads where they are, and wait until they stand still."""
        self.signal(signal.SIGSTOP)
        # Its end is waited for too, or a process that died meanwhile would be waited for in vain.
        # It is left to be reaped by whoever asks for its exit code next.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and every process that it started."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to every process that it started."""
        with contextlib.suppress(ProcessLookupError):  # it ended and left nothing behind
            os.killpg(self.pid, number)

    def wait(self) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired if it does not end."""
        return self._process.wait(END_PATIENCE_S)

    def end(self) -> WorkerError:
        """Kill what is left of a process that closed its channel, and say how it ended."""
        try:
            code = self.wait()
        except subprocess.TimeoutExpired:
            code = 0  # it closed its channel and lives on
        self.kill()
        last = _last_words(self.log)
        if code == -signal.SIGKILL and _oom_kills() != self._oom_kills:
            return WorkerOutOfMemory(f"{self.runtime} was killed by the kernel: out of memory")
        if code != 0 and any(word in last.lower() for word in OUT_OF_MEMORY_WORDS):
            return WorkerOutOfMemory(f"{self.runtime} ran out of memory: {last}")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        words = f"; last words: {last}" if last else ""
        return WorkerCrashed(f"{self.runtime} died of {how}{words}")


def find_interpreter(python: str) -> str:
    """Its path. Raises InputError where there is none."""
    found = shutil.which(Path(python).expanduser())
    if found is None:
        raise InputError(f"python = {python!r}: no such interpreter")
    return str(Path(found).absolute())  # not resolved: a venv is found by the link's own place


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
