"""The process of one session. Run by path, ``python worker.py SOCKET_FD PARENT_PID ...``.

It may run under any environment's interpreter, so it imports nothing but the standard library,
NumPy and the rooms ``compile`` and ``runtimes``, found beside this file. Those two are registered
as packages one by one: adding their parent folder to ``sys.path`` would leak the site-packages of
Assay's environment into the other one, and the user's folder is not on the path either.

Between requests its parent keeps it stopped (``runtimes/client.py``): an idle worker cannot
disturb the one being measured.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import importlib.util
import os
import platform
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compile.signature import Feeds, Signature
    from runtimes.clocks import Clock
    from runtimes.session import Runtime, Session
    from runtimes.wire import Channel

PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY_WORDS = (
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "can't allocate memory",
    "Failed to allocate memory",
)


class Worker:
    """Serves one runtime and at most one open session; a method ``on_X`` answers request ``X``."""

    def __init__(self, runtime: Runtime, allocator: str) -> None:
        self._runtime = runtime
        self._allocator = allocator
        self._session: Session | None = None
        self._signature: Signature | None = None
        self._baseline: int | None = None
        self._device = "cpu"
        self._call: tuple[Callable[[], object], Clock] | None = None
        self._feeds: Feeds = {}

    def on_availability(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        found = self._runtime.availability()
        versions = {"python": platform.python_version(), **found.versions}
        return asdict(replace(found, versions=versions)), {}

    def on_open(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        from compile.errors import InputError, Unsupported
        from runtimes import memory
        from runtimes.manifest import read_signature
        from runtimes.session import SessionOptions

        if self._session is not None:
            raise InputError("this worker has a session open already")
        available = self._runtime.availability()
        if not available.available:
            raise Unsupported(f"{available.reason}; {available.way_out}".strip("; "))
        self._signature = read_signature(body["folder"])
        self._baseline = memory.resident()
        peak_known = memory.reset_peak()
        options = SessionOptions(**body["options"])
        self._device = options.device
        start = time.perf_counter_ns()
        self._session = self._runtime.open(body["folder"], options)
        return {
            "open_ns": time.perf_counter_ns() - start,
            "open_peak_bytes": memory.peak() if peak_known else None,
        }, {}

    def on_run(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        return {}, self._checked(feeds).run(feeds)

    def on_answer(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        from runtimes.likelihood import answers
        from runtimes.wire import LABELS

        labels = feeds.pop(LABELS)
        logits = next(iter(self._checked(feeds).run(feeds).values()))
        reduced = answers(logits, labels)
        return {}, {name: array for name, array in vars(reduced).items() if array is not None}

    def on_prepare(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        from runtimes.clocks import clock_of, slowed

        session = self._checked(feeds)
        start = time.perf_counter_ns()
        call = session.prepare(feeds)
        took = time.perf_counter_ns() - start
        clock = clock_of(session.contract().clock, self._device)
        if body["slow_down"]:
            call = slowed(call, clock, body["slow_down"])
        self._call, self._feeds = (call, clock), feeds
        # What lives now lives on: collected once, and out of the collector's sight.
        gc.collect()
        gc.freeze()
        return {"prepare_ns": took}, {}

    def on_sample(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        """``unrecorded`` calls to wake caches and threads after others ran, then ``n`` samples."""
        from runtimes.clocks import clock_calls

        call, clock = self._prepared()
        gc.disable()
        try:
            rewarm = clock_calls(clock, call, body["unrecorded"])
            samples = clock_calls(clock, call, body["n"])
        finally:
            gc.enable()
        return {}, {"samples_ns": samples, "unrecorded_ns": rewarm}

    def on_throughput(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        """Calls back to back until ``seconds`` have passed by the host's clock; those that were
        begun are finished and count."""
        from runtimes import memory

        call, clock = self._prepared()
        gc.disable()
        try:
            for _ in range(body["unrecorded"]):
                call()
            clock.wait()
            calls = 0
            peak_known = memory.reset_peak()
            before, faults = memory.resident(), page_faults()
            start = now = time.perf_counter_ns()
            end = start + int(body["seconds"] * 1e9)
            while now < end:
                call()
                calls += 1
                now = time.perf_counter_ns()
            clock.wait()
            took = time.perf_counter_ns() - start
        finally:
            gc.enable()
        faults = page_faults() - faults
        after = memory.resident()
        return {
            "calls": calls,
            "ns": took,
            "page_faults": faults,
            "grown_bytes": None if before is None or after is None else after - before,
            "peak_bytes": memory.peak() if peak_known else None,
        }, {}

    def on_serve(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        """Serve one episode of requests, after ``unrecorded`` calls of each slot: to the schedule
        ``arrivals_ns``, or in a closed loop of ``concurrency`` clients."""
        from runtimes.serving import serve_closed, serve_open
        from runtimes.wire import ARRIVALS

        calls, clock = self._slots(body["slots"])
        gc.disable()
        try:
            for call in calls:
                for _ in range(body["unrecorded"]):
                    call()
            clock.wait()
            if ARRIVALS in feeds:
                served = serve_open(calls, clock.wait, feeds[ARRIVALS], body["limit_ns"])
            else:
                served = serve_closed(
                    calls, clock.wait, body["concurrency"], body["limit_ns"], body["requests"]
                )
        finally:
            gc.enable()
        return {}, vars(served)

    def on_memory(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        breakdown = self._checked(feeds).memory(feeds)
        return asdict(replace(breakdown, baseline_bytes=self._baseline)), {}

    def on_proof(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        return asdict(self._opened().proof()), {}

    def on_contract(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        return asdict(replace(self._opened().contract(), allocator=self._allocator)), {}

    def on_close(self, body: dict[str, Any], feeds: Feeds) -> Reply:
        self._call, self._feeds = None, {}
        if self._session is not None:
            self._session.close()
            self._session = None
        return {}, {}

    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeError("no session is open")
        return self._session

    def _prepared(self) -> tuple[Callable[[], object], Clock]:
        if self._call is None:
            raise RuntimeError("no call is prepared")
        return self._call

    def _slots(self, count: int) -> tuple[list[Callable[[], object]], Clock]:
        """The prepared call, and as many more of its kind as are to run at the same time."""
        from compile.errors import Unsupported

        call, clock = self._prepared()
        session = self._opened()
        if count > 1 and getattr(session, "one_at_a_time", False):
            raise Unsupported(
                f"a session of {self._runtime.name} makes one call at a time; slots must be 1"
            )
        return [call, *(session.prepare(self._feeds) for _ in range(count - 1))], clock

    def _checked(self, feeds: Feeds) -> Session:
        from runtimes.feeds import check

        session = self._opened()
        assert self._signature is not None
        check(self._signature, feeds)
        return session


Reply = tuple[dict[str, Any], "Feeds"]


def page_faults() -> int:
    """Pages that the kernel has supplied to this process so far without reading a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def serve(worker: Worker, channel: Channel) -> None:
    """Answer requests until ``close`` or until the parent is gone."""
    from runtimes.wire import PeerGone, WireError

    while True:
        try:
            request, feeds = channel.receive()
        except PeerGone:
            return
        command = request.pop("command")
        try:
            reply, arrays = getattr(worker, f"on_{command}")(request, feeds)
            channel.send({"ok": reply}, arrays)
        except PeerGone:
            return
        except WireError as error:
            channel.send({"error": describe(error)})
        except Exception as error:  # noqa: BLE001 - carried to the parent, which raises it
            traceback.print_exc()
            channel.send({"error": describe(error)})
        if command == "close":
            return


def describe(error: BaseException) -> dict[str, str]:
    """The error's kind, as ``runtimes.client`` raises it again, and its message in one line."""
    from compile.errors import Corrupted, Incorrect, InputError, Unsupported

    message = " ".join(str(error).split()) or type(error).__name__
    for kind in (InputError, Unsupported, Incorrect, Corrupted):
        if isinstance(error, kind):
            return {"kind": kind.__name__, "message": message}
    words = f"{type(error).__name__}: {message}"
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(word.lower() in message.lower() for word in OUT_OF_MEMORY_WORDS)
    ):
        return {"kind": "OutOfMemory", "message": words}
    return {"kind": "Error", "message": words}


def adopt_rooms(house: Path) -> None:
    """Register ``compile`` and ``runtimes`` from ``house`` without touching ``sys.path``."""
    for room in ("compile", "runtimes"):
        folder = house / room
        spec = importlib.util.spec_from_file_location(
            room, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[room] = module
        spec.loader.exec_module(module)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was in force
        os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--memory-limit", type=int)
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    faulthandler.enable()
    if arguments.memory_limit:
        # Private writable memory only: torch and CUDA reserve address space that they never use.
        limit = (arguments.memory_limit, arguments.memory_limit)
        resource.setrlimit(resource.RLIMIT_DATA, limit)
    adopt_rooms(Path(__file__).resolve().parent.parent)

    from runtimes import allocator, registry
    from runtimes.wire import Channel

    settled = allocator.settle()
    channel = Channel(socket.socket(fileno=arguments.socket))
    try:
        runtime = registry.entry(arguments.runtime).load()
    except Exception as error:  # noqa: BLE001 - carried to the parent, which raises it
        channel.send({"error": describe(error)})
        return
    channel.send({"ok": {"python": sys.version.split()[0]}})
    serve(Worker(runtime, settled), channel)
    sys.stdout.flush()
    sys.stderr.flush()
    # Skip interpreter shutdown: a library that crashes in its destructors is no finding.
    os._exit(0)


if __name__ == "__main__":
    main()
