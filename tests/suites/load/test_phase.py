"""Fakes of known behaviour under load take turns in one phase, and each one's row says its truth.

A sleep is late on a busy machine, never early: figures are held to the truth from below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.artifact import Artifact
from compile.signature import Signature, TensorSpec
from quantize.recipe import Tolerance
from reports.schema import samples_table, validate_row
from runtimes.fake import Behaviour, expected_outputs, write_fake
from runtimes.serving import Served
from suites import rows
from suites.blocks import SessionKey
from suites.cell import Cell
from suites.load import loaded_cell
from suites.load.loaded_cell import LoadedCell, backlog_ns, closed_end_ns
from suites.load.phase import run_load_phase
from suites.measure.load.slo import Slo
from suites.measure.plan import MeasurePlan
from suites.phase import Outcome
from suites.sessions import LiveSession
from suites.suite_file import RuntimeEntry, Workload

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", 4)),),
    outputs=(TensorSpec("y", "float32", ("batch", 4)),),
)
PLAN = MeasurePlan(min_warmup_s=0.02, max_warmup_s=5.0)

Phase = Callable[..., tuple[dict[str, dict[str, Any]], dict[str, Outcome]]]


@pytest.fixture
def phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phase]:
    """(load, name=behaviour, ...) -> validated rows and outcomes by name."""
    monkeypatch.setattr(loaded_cell, "PACE_S", 0.04)
    sessions = []

    def run(load: dict[str, Any], **behaviours: Behaviour):
        workload = Workload.model_validate({"load": load})
        feeds = SIGNATURE.feeds(workload.sizes)
        pairs = []
        for name, behaviour in behaviours.items():
            write_fake(tmp_path / name, SIGNATURE, behaviour)
            artifact = Artifact(tmp_path / name, name, "onnx", SIGNATURE, (), {})
            key = SessionKey("fake", name, "fake", "default", "cpu")
            # A fake that hangs is waited for; the others have the time that a busy machine takes.
            entry = RuntimeEntry(timeout=0.8 if behaviour.fault == "hang" else 10.0)
            sessions.append(LiveSession(key, artifact, Tolerance(), entry, 1, tmp_path / "logs"))
            pairs.append((sessions[-1], Cell("fake", name, "fake", "default", "busy", "cpu")))
        truth = expected_outputs(SIGNATURE, feeds)
        found = run_load_phase(
            pairs,
            workload,
            {session.key: feeds for session, _ in pairs},
            dict.fromkeys(behaviours, truth),
            PLAN,
            seed=3,
            on_progress=lambda text, fraction: None,
        )
        outcomes = {outcome.cell.recipe: outcome for outcome in found}
        told = {
            name: validate_row(rows.identity("s", outcome.cell, workload, 0) | outcome.columns)
            for name, outcome in outcomes.items()
        }
        return told, outcomes

    yield run
    for session in sessions:
        session.close()


def test_builds_at_one_rate_see_the_same_arrivals(phase: Phase) -> None:
    told, outcomes = phase(
        {"rate": 60, "seconds": 0.35, "episodes": 2, "slo": {"e2el_ms": 2000}},
        fast=Behaviour(latency_ms=2),
        slow=Behaviour(latency_ms=6),
        wrong=Behaviour(fault="nan"),
    )
    assert {name: row["status"] for name, row in told.items() if name in outcomes} == {
        "fast": "ok",
        "slow": "ok",
        "wrong": "incorrect",
    }
    assert all(row["load"] == "open" for row in told.values())
    assert told["wrong"]["e2el_mean_ms"] is None
    fast, slow = (outcomes[name].samples for name in ("fast", "slow"))
    np.testing.assert_array_equal(fast["arrival_ns"], slow["arrival_ns"])
    assert told["slow"]["e2el_mean_ms"] >= told["slow"]["queue_mean_ms"] + 6
    assert samples_table("1", slow).num_rows == len(slow["latency_ns"])
    # The recursion of a queue, with the calls as they were measured.
    for number in range(2):
        mine = slow["block"] == number
        arrival, start = slow["arrival_ns"][mine], slow["start_ns"][mine]
        finish = start + slow["latency_ns"][mine]
        earliest = np.maximum(arrival, np.concatenate([[0], finish[:-1]]))
        assert (start >= earliest).all()


def test_a_session_that_dies_under_load_leaves_the_others_alone(
    phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a warm-up, whose length is the machine's: then at most 130 calls are made before the
    # first episode, some 60 in each, and call 300 is in one of them.
    monkeypatch.setattr(LoadedCell, "warm_up", lambda cell: None)
    told, outcomes = phase(
        {"rate": 200, "seconds": 0.3, "episodes": 8},
        healthy=Behaviour(latency_ms=1),
        crashing=Behaviour(latency_ms=1, fault="crash", fault_at=300),
        hanging=Behaviour(latency_ms=1, fault="hang", fault_at=300),
    )
    healthy, crashing, hanging = (told[name] for name in ("healthy", "crashing", "hanging"))
    assert (healthy["status"], healthy["episodes"]) == ("ok", 8)
    assert (crashing["status"], hanging["status"]) == ("error", "timeout")
    assert "SIGSEGV" in crashing["reason"]
    for name in ("crashing", "hanging"):
        assert 1 <= told[name]["episodes"] < 8
        assert told[name]["e2el_mean_ms"] is None
        # What it served before is kept.
        assert len(np.unique(outcomes[name].samples["block"])) == told[name]["episodes"]


def test_a_saturated_session_has_rates_and_no_time(phase: Phase) -> None:
    told, outcomes = phase(
        {"rate": 400, "seconds": 0.3, "episodes": 2, "slo": {"e2el_ms": 20}},
        build=Behaviour(latency_ms=4),
    )
    row = told["build"]
    assert row["status"] == "not-stationary"
    assert row["reason"].startswith("saturated: ")
    kinds = ("e2el_", "queue_", "service_", "latency_")
    times = [value for name, value in row.items() if name.startswith(kinds)]
    assert len(times) > 20
    assert set(times) == {None}
    # A call that began before the ramp-up's end may finish in each episode's 0.24 s.
    assert row["achieved_requests_per_s"] <= 250 + 1 / 0.24
    assert row["achieved_over_offered"] < 0.8
    assert row["offered_load"] > 1.3
    assert row["request_goodput_per_s"] < row["request_throughput_per_s"] <= 251
    assert outcomes["build"].samples is not None


def test_clients_wait_for_one_another(phase: Phase) -> None:
    told, outcomes = phase(
        {"concurrency": 3, "seconds": 0.2, "episodes": 2}, build=Behaviour(latency_ms=4)
    )
    row = told["build"]
    assert (row["status"], row["load"], row["concurrency"]) == ("ok", "closed", 3)
    assert row["offered_requests_per_s"] is None
    assert row["e2el_mean_ms"] >= 12
    assert row["queue_mean_ms"] >= 7.5
    assert row["max_concurrent_requests"] == 3
    assert row["request_throughput_per_s"] <= 250
    stored = samples_table("1", outcomes["build"].samples)
    assert stored["requested_requests_per_s"].null_count == stored.num_rows > 0


def test_slots_raise_what_a_session_finishes(phase: Phase) -> None:
    told, _ = phase(
        {"concurrency": 4, "slots": 4, "seconds": 0.2, "episodes": 2},
        build=Behaviour(latency_ms=10),
    )
    assert 110 < told["build"]["request_throughput_per_s"] <= 400
    assert told["build"]["max_concurrent_requests"] == 4


def test_a_capacity_lies_below_what_can_be_served(phase: Phase) -> None:
    told, outcomes = phase(
        {
            "capacity": True,
            "seconds": 0.4,
            "probes": 5,
            "slo": {"e2el_ms": 200, "share": 0.5},
        },
        build=Behaviour(latency_ms=4),
    )
    row = told["build"]
    met, missed = row["capacity_requests_per_s"], row["capacity_missed_requests_per_s"]
    assert row["load"] == "capacity"
    # Half of what it finishes back to back keeps so loose an objective.
    assert met is not None
    assert met <= 250
    assert missed is None or met < missed
    assert row["status"] == "ok"
    # Each request says at which of the search's rates it was offered.
    stored = samples_table("1", outcomes["build"].samples).to_pandas()
    rates = stored.groupby("block")["requested_requests_per_s"]
    assert set(rates.nunique()) == {1}
    searched = [float(rate) for rate in json.loads(row["capacity_probes"])]
    assert sorted(set(rates.first())) == pytest.approx(sorted(searched), rel=1e-5)


@pytest.mark.parametrize(
    ("length", "advice"),
    # Two thirds of a rate are not looked at where 0.4 s have too few requests to decide it.
    [({"seconds": 0.4, "probes": 16}, "seconds"), ({"requests": 40, "probes": 4}, "probes")],
)
def test_a_search_that_meets_its_slo_at_no_rate_says_so(phase: Phase, length, advice) -> None:
    told, outcomes = phase(
        {"capacity": True, "slo": {"e2el_ms": 2, "share": 0.9}, **length},
        build=Behaviour(latency_ms=4),
    )
    row = told["build"]
    missed = row["capacity_missed_requests_per_s"]
    assert (row["status"], row["capacity_requests_per_s"]) == ("not-stationary", None)
    assert {verdict for verdict, *_ in json.loads(row["capacity_probes"]).values()} == {"missed"}
    assert re.fullmatch(
        rf"SLO met at no offered rate: 90 % within 2 ms was missed at {missed:.3g}/s "
        rf"\((\d+) of \1 requests\), the lowest that was offered; raise {advice} to look lower",
        row["reason"],
    )
    times = [value for name, value in row.items() if name.startswith(("e2el_", "service_"))]
    assert set(times) == {None}
    assert len(outcomes["build"].samples["latency_ns"]) > 0


@pytest.mark.parametrize(
    ("length", "advice"),
    [
        ({"seconds": 0.3}, "give seconds of at least "),
        ({"requests": 100}, "requests of at least 220"),
    ],
)
def test_a_search_that_could_decide_nothing_is_refused(phase: Phase, length, advice) -> None:
    # 99 % takes 528 requests without a miss at 5 % / 10: three episodes of 176, and their ramp-up.
    told, outcomes = phase(
        {"capacity": True, "probes": 10, "slo": {"e2el_ms": 50, "share": 0.99}, **length},
        build=Behaviour(latency_ms=4),
    )
    row = told["build"]
    assert (row["status"], row["episodes"]) == ("unsupported", 0)
    assert "99 % within 50 ms takes 528 requests without a miss" in row["reason"]
    assert advice in row["reason"]
    assert len(outcomes["build"].samples["latency_ns"]) == 0


def test_a_closed_loop_of_so_many_requests_ends_with_its_last_answer() -> None:
    # Two clients and one slot: the last request is sent two answers before the end.
    served = Served(*(np.array(t) for t in ([0, 0, 10, 20], [0, 10, 20, 30], [10, 20, 30, 40])))
    assert closed_end_ns(served, None) == 40
    assert closed_end_ns(served, 1e-8) == 10


def test_a_backlog_is_served_for_as_long_as_a_stable_session_may_need() -> None:
    assert backlog_ns(2000, None, 10.0) == 1000
    assert backlog_ns(2000, Slo(700, 0.9), 10.0) == 1400
    # A session whose calls are long for the episode: one that waits for two others is no overload.
    assert backlog_ns(2000, Slo(700, 0.9), 500.0) == 10_000


def test_an_episode_in_which_nobody_comes_says_so(phase: Phase) -> None:
    told, outcomes = phase(
        {"rate": 0.001, "seconds": 0.05, "episodes": 2}, build=Behaviour(latency_ms=1)
    )
    row = told["build"]
    assert row["status"] == "not-stationary"
    assert row["reason"] == "no request came after the ramp-up; raise seconds"
    assert (row["requests_given_up"], row["backlog_requests"]) == (0, 0)
    assert len(outcomes["build"].samples["latency_ns"]) == 0
