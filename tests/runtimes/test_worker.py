"""A worker's life and every way it can end, with the fake runtime's known behaviour."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compile.errors import InputError, Unsupported
from compile.signature import Feeds, Signature
from runtimes.client import Worker
from runtimes.failures import WorkerCrashed, WorkerError, WorkerOutOfMemory, WorkerTimeout
from runtimes.fake import Behaviour, expected_outputs, latency_ms, write_fake
from runtimes.session import SessionOptions
from runtimes.wire import Channel, WireError

Start = Callable[..., Worker]
HOUSE = Path(__file__).resolve().parents[2]


@pytest.fixture
def feeds(linear_signature: Signature) -> Feeds:
    return linear_signature.feeds({"batch": 2})


@pytest.fixture
def opened(start: Start, tmp_path: Path, linear_signature: Signature) -> Callable[..., Worker]:
    """A worker with a fake session of the given behaviour."""

    def open_fake(behaviour: Behaviour, **settings: object) -> Worker:
        write_fake(tmp_path / "fake", linear_signature, behaviour)
        worker = start("fake", **settings)
        worker.open(tmp_path / "fake")
        return worker

    return open_fake


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_run_gives_the_outputs_by_name(
    opened: Callable[..., Worker], feeds: Feeds, linear_signature: Signature
) -> None:
    outputs = opened(Behaviour()).run(feeds)
    expected = expected_outputs(linear_signature, feeds)
    assert list(outputs) == list(expected) == ["y"]
    np.testing.assert_array_equal(outputs["y"], expected["y"])


@pytest.mark.parametrize(
    ("behaviour", "truth"),
    [
        (Behaviour(latency_ms=2), [2.0] * 8),
        (Behaviour(latency_ms=1, pattern="spiky", factor=6, period=4), [1, 1, 1, 6, 1, 1, 1, 6]),
        (
            Behaviour(latency_ms=1, pattern="drifting", factor=3, period=4),
            [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5],
        ),
        (
            Behaviour(latency_ms=1, pattern="slow-warm-up", factor=5, period=4),
            [5, 4, 3, 2, 1, 1, 1, 1],
        ),
    ],
    ids=lambda value: value.pattern if isinstance(value, Behaviour) else "",
)
def test_samples_are_at_least_the_fake_truth(
    opened: Callable[..., Worker], feeds: Feeds, behaviour: Behaviour, truth: list[float]
) -> None:
    random = np.random.default_rng(0)
    assert [latency_ms(behaviour, call, random) for call in range(8)] == truth
    worker = opened(behaviour)
    worker.prepare(feeds)
    samples = worker.sample(6, unrecorded=2)
    assert samples.ns.dtype == np.int64
    assert (len(samples.unrecorded_ns), len(samples.ns)) == (2, 6)
    measured = np.concatenate([samples.unrecorded_ns, samples.ns]) / 1e6
    assert (measured >= np.array(truth)).all()


def test_bimodal_latency_is_slower_in_the_asked_share_of_calls() -> None:
    behaviour = Behaviour(latency_ms=1, pattern="bimodal", factor=3, share=0.25)
    random = np.random.default_rng(0)
    drawn = [latency_ms(behaviour, call, random) for call in range(4000)]
    assert set(drawn) == {1, 3}
    assert abs(np.mean(np.array(drawn) == 3) - 0.25) < 0.03  # 4.4 standard errors


def test_a_slow_down_adds_its_share_to_every_call(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(latency_ms=2))
    worker.prepare(feeds, slow_down=0.5)
    assert (worker.sample(5, unrecorded=1).ns >= 3e6).all()
    assert worker.throughput(0.05).calls <= 17


def test_throughput_counts_whole_calls_until_the_time_is_over(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(latency_ms=5))
    worker.prepare(feeds)
    result = worker.throughput(0.1)
    assert result.ns >= 100e6
    assert 1 <= result.calls <= result.ns / 5e6
    assert result.calls_per_s == result.calls / result.ns * 1e9


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("crash", WorkerCrashed, "fake died of SIGSEGV"),
        ("exit", WorkerCrashed, "exit code 3; last words: the library gave up"),
    ],
)
def test_a_crash_names_the_signal_or_exit_code_and_ends_the_worker(
    opened: Callable[..., Worker],
    feeds: Feeds,
    fault: str,
    error: type[WorkerError],
    message: str,
) -> None:
    worker = opened(Behaviour(fault=fault, fault_at=2))  # type: ignore[arg-type]
    worker.run(feeds)
    worker.prepare(feeds)
    with pytest.raises(error, match=message):
        worker.sample(5)
    with pytest.raises(error, match=message):  # the same again, not a broken pipe
        worker.run(feeds)
    assert not is_alive(worker.pid)
    worker.close()


def test_a_hang_ends_in_a_timeout_and_kills_the_worker(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(fault="hang"))
    with pytest.raises(WorkerTimeout, match=r"did not answer within 0\.3 s"):
        worker.run(feeds, timeout_s=0.3)
    assert not is_alive(worker.pid)


def test_a_refused_allocation_is_out_of_memory_and_the_worker_lives_on(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(fault="out-of-memory"))
    with pytest.raises(WorkerOutOfMemory, match="a fake allocation was refused"):
        worker.run(feeds)
    assert worker.contract().threads == 1


def test_a_library_error_arrives_in_one_line_with_its_type(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(fault="error"))
    with pytest.raises(WorkerError, match=r"^RuntimeError: a fake library failed$"):
        worker.run(feeds)
    assert "Traceback" in worker.log.read_text()


def test_a_leak_ends_as_out_of_memory_when_memory_is_limited(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(
        Behaviour(fault="leak", latency_ms=0), memory_limit_bytes=400 << 20, timeout_s=30
    )
    worker.prepare(feeds)
    with pytest.raises(WorkerOutOfMemory):
        worker.sample(500)


def test_a_bad_alloc_that_aborts_the_process_is_out_of_memory(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(fault="hang"))
    with worker.log.open("a") as log:
        log.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.kill(worker.pid, signal.SIGABRT)
    with pytest.raises(WorkerOutOfMemory, match="bad_alloc"):
        worker.run(feeds)


def test_nan_and_wrong_outputs_are_passed_on(opened: Callable[..., Worker], feeds: Feeds) -> None:
    assert np.isnan(opened(Behaviour(fault="nan")).run(feeds)["y"]).all()
    worker = opened(Behaviour(fault="wrong", fault_at=1))
    assert (worker.run(feeds)["y"] < 1000).all()
    assert (worker.run(feeds)["y"] == 1000).all()


def test_memory_grows_by_what_a_session_keeps(opened: Callable[..., Worker], feeds: Feeds) -> None:
    worker = opened(Behaviour(fault="leak", latency_ms=0))
    before = worker.memory(feeds)
    worker.prepare(feeds)
    worker.sample(64, unrecorded=0)
    after = worker.memory(feeds)
    grown = after.in_use_bytes - before.in_use_bytes
    assert 64 << 20 <= grown < 80 << 20
    assert after.resident_bytes - before.resident_bytes > 60 << 20
    assert after.peak_bytes >= after.resident_bytes


def test_feeds_are_checked_before_the_runtime_sees_them(
    opened: Callable[..., Worker], feeds: Feeds
) -> None:
    worker = opened(Behaviour(fault="crash"))
    for bad, name in (({**feeds, "z": feeds["x"]}, "'z'"), ({"x": feeds["x"][0]}, "'x'")):
        with pytest.raises(InputError, match=name):
            worker.run(bad)
        with pytest.raises(InputError, match=name):
            worker.prepare(bad)


def test_an_unsupported_session_and_a_missing_artifact_keep_their_kinds(
    start: Start, tmp_path: Path, linear_signature: Signature
) -> None:
    write_fake(tmp_path, linear_signature, Behaviour(unavailable="not on this machine"))
    worker = start("fake")
    with pytest.raises(Unsupported, match="not on this machine"):
        worker.open(tmp_path)
    with pytest.raises(InputError, match="is not an artifact"):
        worker.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no option 'latency'; its options: latency_ms"):
        worker.open(tmp_path, SessionOptions(extra={"latency": 1}))


@pytest.mark.parametrize("python", ["/no/such/python", "no-such-python", str(HOUSE)])
def test_start_raises_input_error_when_the_interpreter_does_not_exist(
    start: Start, python: str
) -> None:
    with pytest.raises(InputError, match="no such interpreter"):
        start("fake", python=python)


def test_start_raises_unsupported_when_the_interpreter_has_no_numpy(
    start: Start, environment: Callable[..., Path]
) -> None:
    with pytest.raises(Unsupported, match="No module named 'numpy'"):
        start("fake", python=str(environment()))


def test_another_environment_runs_a_worker_without_seeing_this_one(
    start: Start,
    environment: Callable[..., Path],
    tmp_path: Path,
    linear_signature: Signature,
    feeds: Feeds,
) -> None:
    """A new environment that holds NumPy alone: nothing of ours may leak into it."""
    python = str(environment("numpy"))
    write_fake(tmp_path / "fake", linear_signature, Behaviour())
    worker = start("fake", python=python)
    worker.open(tmp_path / "fake")
    assert worker.run(feeds)["y"].shape == (2, 32)
    available = start("onnxruntime-cpu", python=python).availability()
    assert not available.available
    assert "No module named 'onnxruntime'" in available.reason
    assert "pip install onnxruntime" in available.way_out


def test_folders_of_the_users_named_like_our_rooms_do_not_shadow_them(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    linear_signature: Signature,
    feeds: Feeds,
) -> None:
    for room in ("compile", "runtimes", "numpy", "json"):
        (tmp_path / "mine" / room).mkdir(parents=True)
        (tmp_path / "mine" / room / "__init__.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path / "mine")
    write_fake(tmp_path / "fake", linear_signature, Behaviour())
    worker = start("fake")
    worker.open(tmp_path / "fake")
    assert worker.run(feeds)["y"].shape == (2, 32)


def test_the_worker_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from runtimes.client import Worker\n"
        f"worker = Worker.start('fake', log_dir=Path({str(tmp_path)!r}))\n"
        "print(worker.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True
    )
    deadline = time.monotonic() + 10
    while is_alive(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(int(done.stdout))


def test_close_ends_the_worker_and_may_be_repeated(opened: Callable[..., Worker]) -> None:
    worker = opened(Behaviour())
    worker.close()
    worker.close()
    assert not is_alive(worker.pid)


def test_a_worker_that_sends_what_cannot_be_read_is_killed_and_named(
    opened: Callable[..., Worker], feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = opened(Behaviour(latency_ms=0))

    def garbled(channel: Channel, timeout: float | None = None) -> None:
        raise WireError("the other end does not speak this protocol")

    monkeypatch.setattr(Channel, "receive", garbled)
    with pytest.raises(WorkerCrashed, match="fake sent what cannot be read"):
        worker.run(feeds)
    assert worker.dead
    assert not is_alive(worker.pid)


def test_contract_names_the_allocator(opened: Callable[..., Worker]) -> None:
    assert opened(Behaviour()).contract().allocator == "glibc, mmap 32 MiB, trim 64 MiB"
