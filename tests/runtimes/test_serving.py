"""Requests served to a schedule and to clients in a loop, by fakes of known latency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compile.errors import Unsupported
from compile.signature import Signature
from runtimes.client import Worker
from runtimes.failures import WorkerCrashed, WorkerError, WorkerTimeout
from runtimes.fake import Behaviour, write_fake
from runtimes.serving import NOT_SERVED, Served, serve_closed, serve_open

MS = 1_000_000
SLACK_NS = 30 * MS
"""What a busy machine may add between two lines of Python."""

Prepared = Callable[..., Worker]


@pytest.fixture
def prepared(start: Callable[..., Worker], tmp_path: Path, linear_signature: Signature) -> Prepared:
    """A worker whose fake call is in place."""

    def make(behaviour: Behaviour, **settings: object) -> Worker:
        write_fake(tmp_path / "fake", linear_signature, behaviour)
        worker = start("fake", **settings)
        worker.open(tmp_path / "fake")
        worker.prepare(linear_signature.feeds({"batch": 1}))
        return worker

    return make


def lindley(served: Served, slots: int = 1) -> np.ndarray:
    """When each call could begin at the earliest: its arrival, or the first slot's release."""
    free = [0] * slots
    begin = []
    for arrival, finish in zip(served.arrival.tolist(), served.finish.tolist(), strict=True):
        free.sort()
        begin.append(max(arrival, free[0]))
        free[0] = finish
    return np.array(begin)


def test_every_request_follows_the_recursion_of_a_queue(prepared: Prepared) -> None:
    # Bursts of five, 12 ms apart, at 4 ms a call: the last of a burst waits 16 ms and more.
    arrivals = np.repeat(np.arange(1, 9) * 12 * MS, 5) + np.tile(np.arange(5), 8)
    served = prepared(Behaviour(latency_ms=4)).serve(arrivals, limit_ns=10_000 * MS)
    np.testing.assert_array_equal(served.arrival, arrivals)
    late = served.start - lindley(served)
    assert (late >= 0).all()
    assert np.median(late) < SLACK_NS / 10
    service = served.finish - served.start
    assert (service >= 4 * MS).all()
    # Waiting adds up exactly: what a request waits is what those before it took and what was late.
    assert (np.diff(served.start) >= service[:-1]).all()
    assert served.finish[-1] >= arrivals[0] + 40 * 4 * MS


def test_a_stall_is_in_every_request_that_it_kept_waiting(prepared: Prepared) -> None:
    # Call 60 stalls for 240 ms while a request arrives every 4 ms: one slow call, many victims.
    behaviour = Behaviour(latency_ms=1, pattern="spiky", factor=240, period=60)
    arrivals = np.arange(1, 111) * 4 * MS
    served = prepared(behaviour).serve(arrivals, limit_ns=10_000 * MS, unrecorded=1)
    e2el, service = served.finish - served.arrival, served.finish - served.start
    assert (service > 200 * MS).sum() == 1
    assert np.quantile(service, 0.99) < 200 * MS
    assert np.quantile(e2el, 0.90) > 100 * MS
    assert (e2el > 100 * MS).sum() >= 30


def test_what_is_left_at_the_limit_is_given_up_and_counted(prepared: Prepared) -> None:
    arrivals = np.arange(1, 101) * MS
    served = prepared(Behaviour(latency_ms=5)).serve(arrivals, limit_ns=150 * MS)
    given_up = served.finish == NOT_SERVED
    assert len(served.finish) == 100
    assert 60 <= given_up.sum() <= 99
    assert (served.start[~given_up] <= 150 * MS).all()
    # In order of arrival: who is given up came later than who was served.
    assert not (np.diff(given_up.astype(int)) < 0).any()
    np.testing.assert_array_equal(given_up, served.start == NOT_SERVED)


def test_slots_run_at_the_same_time_and_take_requests_in_order(prepared: Prepared) -> None:
    arrivals = np.arange(1, 25, dtype=np.int64) * MS
    worker = prepared(Behaviour(latency_ms=20))
    served = worker.serve(arrivals, limit_ns=10_000 * MS, slots=4)
    assert (served.start - lindley(served, slots=4) >= -MS).all()
    assert (np.diff(served.start) > -SLACK_NS).all()
    inside = (served.start[:, None] <= served.start) & (served.start < served.finish[:, None])
    assert inside.sum(axis=0).max() == 4
    # Six rounds of four calls; one after the other would take 480 ms.
    assert 120 * MS <= served.finish.max() < 480 * MS


def test_clients_send_when_they_are_answered(prepared: Prepared) -> None:
    served = prepared(Behaviour(latency_ms=3)).serve_clients(3, requests=30)
    assert len(served.finish) == 30
    assert (served.arrival[:3] == 0).all()
    # Each later arrival is the end of an earlier answer, and three are always in the system.
    np.testing.assert_array_equal(served.arrival[3:], np.sort(served.finish)[:27])
    assert (served.finish - served.arrival >= 9 * MS)[2:].all()
    assert (served.start[1:] >= served.finish[:-1]).all()


def test_clients_stop_sending_at_the_limit_and_are_served(prepared: Prepared) -> None:
    served = prepared(Behaviour(latency_ms=5)).serve_clients(4, limit_ns=100 * MS, slots=2)
    assert (served.arrival < 100 * MS).all()
    assert (served.finish > served.start).all()
    assert 4 <= len(served.finish) <= 2 * 100 / 5 + 4


@pytest.mark.parametrize(
    ("fault", "error", "message", "slots", "timeout_s"),
    [
        ("crash", WorkerCrashed, "SIGSEGV", 1, 10.0),
        ("hang", WorkerTimeout, "did not answer", 2, 0.4),
        ("error", WorkerError, "a fake library failed", 3, 10.0),
    ],
)
def test_a_call_that_fails_ends_the_episode(
    prepared: Prepared,
    fault: str,
    error: type[Exception],
    message: str,
    slots: int,
    timeout_s: float,
) -> None:
    worker = prepared(Behaviour(fault=fault, fault_at=10))  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        worker.serve(np.arange(1, 40) * MS, limit_ns=500 * MS, slots=slots, timeout_s=timeout_s)


def test_a_slot_waits_for_the_result_of_its_call() -> None:
    waited = []
    call, wait = (lambda: waited.append("call")), (lambda: waited.append("wait"))
    serve_open([call], wait, np.array([MS, 2 * MS]), limit_ns=1000 * MS)
    serve_closed([call], wait, 1, None, 2)
    assert waited == ["call", "wait"] * 4


def test_no_request_is_begun_before_it_arrives() -> None:
    arrivals = np.arange(1, 40) * 2 * MS
    served = serve_open([lambda: None], lambda: None, arrivals, limit_ns=1000 * MS)
    assert (served.start >= arrivals).all()


def test_a_real_session_serves_with_several_slots(
    start: Callable[..., Worker], linear_folder: Path, linear_signature: Signature
) -> None:
    worker = start("onnxruntime-cpu")
    worker.open(linear_folder)
    worker.prepare(linear_signature.feeds({"batch": 2}))
    served = worker.serve(np.arange(1, 201) * MS // 4, limit_ns=10_000 * MS, slots=3)
    assert (served.start >= served.arrival).all()
    assert (served.finish > served.start).all()


def test_a_session_of_one_call_at_a_time_refuses_more_slots(
    start: Callable[..., Worker], linear_folder: Path, linear_signature: Signature
) -> None:
    pytest.importorskip("openvino")
    worker = start("openvino")
    worker.open(linear_folder)
    worker.prepare(linear_signature.feeds({"batch": 2}))
    with pytest.raises(Unsupported, match="one call at a time; slots must be 1"):
        worker.serve(np.arange(1, 5) * MS, limit_ns=1000 * MS, slots=2)
    assert len(worker.serve(np.arange(1, 5) * MS, limit_ns=1000 * MS).finish) == 4
