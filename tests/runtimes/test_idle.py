"""An idle worker is idle, and so is the parent of a busy one: nobody spins, nobody polls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from compile.signature import Feeds, Signature
from runtimes.client import Worker
from runtimes.fake import Behaviour, write_fake

Start = Callable[..., Worker]


@pytest.fixture
def feeds(linear_signature: Signature) -> Feeds:
    return linear_signature.feeds({"batch": 2})


@pytest.fixture
def opened(start: Start, tmp_path: Path, linear_signature: Signature) -> Callable[..., Worker]:
    """A worker with a fake session of the given behaviour, in a folder of its own."""
    folders = iter(range(100))

    def open_fake(behaviour: Behaviour) -> Worker:
        folder = tmp_path / f"fake-{next(folders)}"
        write_fake(folder, linear_signature, behaviour)
        worker = start("fake")
        worker.open(folder)
        return worker

    return open_fake


@pytest.fixture
def matmuls(
    start: Start, onnx_artifact: Callable[..., Path], linear_signature: Signature
) -> Callable[[str], Worker]:
    """A worker of a real runtime whose pool of two threads has just been busy."""
    from onnx import helper

    def work(runtime: str) -> Worker:
        names = ["x", *(f"h{i}" for i in range(20)), "y"]
        nodes = [
            helper.make_node("MatMul", [taken, "w"], [given]) for taken, given in pairwise(names)
        ]
        worker = start(runtime, threads=2)
        worker.open(onnx_artifact(nodes, {"w": np.eye(32, dtype=np.float32)}, name=runtime))
        worker.prepare(linear_signature.feeds({"batch": 512}))
        worker.sample(20)
        return worker

    return work


def ticks(pid: int) -> int:
    """User and system time of a process, all its threads (fields 14 and 15 of its stat)."""
    cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(cells[11]) + int(cells[12])


def states(pid: int) -> set[str]:
    """Of all its threads (field 3): T is stopped."""
    files = Path(f"/proc/{pid}/task").glob("*/stat")
    return {file.read_text().rpartition(")")[2].split()[0] for file in files}


def test_idle_workers_use_no_cpu_while_another_one_is_asked(
    opened: Callable[..., Worker], matmuls: Callable[[str], Worker], feeds: Feeds
) -> None:
    idle = [matmuls("onnxruntime-cpu"), matmuls("openvino"), opened(Behaviour(spins=True))]
    asked = opened(Behaviour(latency_ms=1000))
    before = [ticks(worker.pid) for worker in idle]
    assert all(used > 0 for used in before)  # they did work, and were not merely never started
    asked.run(feeds)
    assert [ticks(worker.pid) for worker in idle] == before
    assert [states(worker.pid) for worker in idle] == [{"T"}] * 3


def test_the_parent_does_not_poll_during_a_long_call(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(latency_ms=1000))
    worker.prepare(feeds)
    before = time.process_time()
    worker.sample(1, unrecorded=0)
    assert time.process_time() - before < 0.02


def test_a_worker_whose_threads_never_sleep_stands_still_between_requests(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(latency_ms=500, spins=True))
    before = ticks(worker.pid)
    worker.run(feeds)
    during = ticks(worker.pid)
    time.sleep(0.5)
    assert ticks(worker.pid) == during
    assert states(worker.pid) == {"T"}
    assert (during - before) / os.sysconf("SC_CLK_TCK") >= 0.02  # the thread does spin while it may
    worker.close()
