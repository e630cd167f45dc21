"""Fakes of known behaviour take turns in one phase, and each one's row says its truth.

A sleep is late on a busy machine, never early: figures are held to the truth from below, and from
above by what tells one behaviour from another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.artifact import Artifact
from compile.signature import Signature, TensorSpec
from quantize.recipe import Tolerance
from reports.schema import validate_row
from runtimes.fake import Behaviour, expected_outputs, write_fake
from suites import rows, visits
from suites.blocks import SessionKey
from suites.cell import Cell
from suites.measure.meters.speed import SLOW, Yardstick
from suites.measure.plan import MeasurePlan
from suites.phase import Outcome, visit
from suites.sessions import LiveSession
from suites.suite_file import RuntimeEntry, Workload

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", 4)),),
    outputs=(TensorSpec("y", "float32", ("batch", 4)),),
)
LEAK = 256 << 10
FAKES = {
    "constant": Behaviour(latency_ms=4),
    "bimodal": Behaviour(latency_ms=2, pattern="bimodal", factor=5, share=0.25),
    "spiky": Behaviour(latency_ms=2, pattern="spiky", factor=5, period=5),
    "drifting": Behaviour(latency_ms=2, pattern="drifting", factor=2, period=50),
    "slow-warm-up": Behaviour(latency_ms=3, pattern="slow-warm-up", factor=5, period=20),
    "leaking": Behaviour(latency_ms=4, fault="leak", leak_bytes=LEAK),
    "crashing": Behaviour(latency_ms=4, fault="crash", fault_at=8),
    "hanging": Behaviour(latency_ms=4, fault="hang", fault_at=8),
}
QUANTILES = {
    "constant": ["latency_p50_ms"],
    "bimodal": ["latency_p50_ms", "latency_p90_ms"],
    "spiky": ["latency_p50_ms", "latency_p90_ms"],
    "slow-warm-up": ["latency_p50_ms"],
    "leaking": ["latency_p50_ms"],
}
VISITS = 4
PLAN = MeasurePlan(first_look=60, min_seconds=0.1, max_seconds=0.7, max_warmup_s=0.6)

ALONE = replace(PLAN, processes=1)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    folder = tmp_path_factory.mktemp("fakes")
    workload = Workload(batch=2)
    feeds = SIGNATURE.feeds(workload.sizes)
    pairs = []
    for name, behaviour in FAKES.items():
        write_fake(folder / name, SIGNATURE, behaviour)
        artifact = Artifact(folder / name, name, "onnx", SIGNATURE, (), {})
        key = SessionKey("fake", name, "fake", "default", "cpu")
        entry = RuntimeEntry(timeout=1.5)
        session = LiveSession(key, artifact, Tolerance(), entry, 1, folder / "logs")
        pairs.append((session, Cell("fake", name, "fake", "default", "two", "cpu")))
    truth = expected_outputs(SIGNATURE, feeds)
    by_name: dict[str, Outcome] = {}
    try:
        # A machine may be too restless for a quantile in one visit, and says so. In several it is
        # not, or the loop cannot tell what it is there to tell.
        for seed in range(VISITS):
            again = [(s, cell) for s, cell in pairs if not _told(by_name.get(cell.recipe))]
            if not again:
                break
            for session, _ in again:
                session.abandon()  # the next visit's is a new one: warm-ups and leaks begin anew
            found = visit(
                again,
                workload,
                {session.key: feeds for session, _ in again},
                dict.fromkeys(FAKES, truth),
                PLAN,
                seed,
                on_progress=lambda text, fraction: None,
            )
            together = visits.outcomes({each.cell: [each] for each in found}, ALONE)
            by_name |= {outcome.cell.recipe: outcome for outcome in together}
        yield by_name
    finally:
        for session, _ in pairs:
            session.close()


def _told(outcome: Outcome | None) -> bool:
    """Whether a row has all that its fake is there to show."""
    if outcome is None:
        return False
    wanted = QUANTILES.get(outcome.cell.recipe, ())
    return all(outcome.columns.get(name) is not None for name in wanted)


def row(outcomes: dict[str, Outcome], name: str) -> dict[str, Any]:
    outcome = outcomes[name]
    identity = rows.identity("fakes", outcome.cell, Workload(batch=2), 0)
    return validate_row(identity | outcome.columns)


def kept(outcomes: dict[str, Outcome], name: str) -> np.ndarray:
    samples = outcomes[name].samples
    assert samples is not None
    return samples["latency_ns"][samples["phase"] == "sample"] / 1e6


def test_constant_is_its_latency_and_does_not_grow(outcomes: dict[str, Outcome]) -> None:
    found = row(outcomes, "constant")
    assert (found["status"], found["contract_clock"]) == ("ok", "host")
    assert 4.0 <= found["latency_p50_ms"] <= 8.0
    assert found["latency_min_ms"] >= 4.0
    assert 2 * 125 < found["throughput_samples_per_s"] <= 2 * 250
    assert abs(found["memory_growth_bytes_per_call"]) < LEAK / 10


def test_bimodal_has_a_fast_median_and_a_slow_p90(outcomes: dict[str, Outcome]) -> None:
    found = row(outcomes, "bimodal")
    assert found["status"] == "ok"
    assert 2.0 <= found["latency_p50_ms"] <= 9.9
    assert 10.0 <= found["latency_p90_ms"] <= 30.0
    slow = np.mean(kept(outcomes, "bimodal") >= 10.0)
    assert 0.05 < slow < 0.6  # a quarter, of at least sixty


def test_spikes_are_in_the_p90_and_not_in_the_median(outcomes: dict[str, Outcome]) -> None:
    found = row(outcomes, "spiky")
    assert found["status"] == "ok"
    assert 2.0 <= found["latency_p50_ms"] <= 9.9
    assert 10.0 <= found["latency_p90_ms"] <= 30.0
    assert found["latency_min_ms"] < 10.0


def test_drifting_has_no_latency_and_says_why(outcomes: dict[str, Outcome]) -> None:
    found = row(outcomes, "drifting")
    assert found["latency_p50_ms"] is None
    # Beside a busy neighbour a third of the calls may be worth too few to call it a drift.
    if found["status"] == "ok":
        assert "p50" in found["insufficient"]
        assert found["drift"] > 0.05
        return
    assert found["status"] == "not-stationary"
    assert "steady state" in found["reason"] or "first to the last third" in found["reason"]
    assert found["throughput_samples_per_s"] is None


def test_slow_warm_up_is_discarded_and_counted(outcomes: dict[str, Outcome]) -> None:
    found = row(outcomes, "slow-warm-up")
    assert found["status"] == "ok"
    assert found["warmup_calls"] >= 12  # of the twenty; the last of them are hardly slower
    assert found["warmup_s"] >= 0.1
    assert 3.0 <= found["latency_p50_ms"] <= 6.0
    samples = outcomes["slow-warm-up"].samples
    assert samples is not None
    assert samples["latency_ns"][:3].min() > 9e6  # kept in the samples, marked


def test_leaking_shows_what_each_call_keeps(outcomes: dict[str, Outcome]) -> None:
    found = row(outcomes, "leaking")
    assert found["status"] == "ok"
    assert found["memory_growth_bytes_per_call"] == pytest.approx(LEAK, rel=0.1)
    calls = found["samples"] + found["warmup_calls"]
    grown = found["memory_throughput_peak_bytes"] - found["memory_open_peak_bytes"]
    assert grown > calls * LEAK


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [("crashing", "error", "SIGSEGV"), ("hanging", "timeout", "did not answer within 1.")],
)
def test_what_ends_a_fake_is_in_its_row_and_the_others_go_on(
    outcomes: dict[str, Outcome], name: str, status: str, reason: str
) -> None:
    found = row(outcomes, name)
    assert found["status"] == status
    assert reason in found["reason"]
    assert found["latency_p50_ms"] is None
    assert found["memory_growth_bytes_per_call"] is None


def test_every_row_says_what_surrounded_its_calls(outcomes: dict[str, Outcome]) -> None:
    for name in ("constant", "bimodal", "spiky", "leaking"):
        found = row(outcomes, name)
        samples = outcomes[name].samples
        assert samples is not None
        marked = samples["disturbed"] & (samples["phase"] == "sample")
        assert found["disturbed_samples"] == marked.sum(), name
        assert (samples["cause"] != None)[samples["disturbed"]].all(), name  # noqa: E711
        assert found["machine_others_cores"] >= 0.0
        # Each call sleeps: it gives its CPU up by itself at least once.
        assert found["machine_switches_per_s"] > 20.0
        assert (found["energy_j_per_sample"] is None) == (found["energy_source"] is None)
        assert found["energy_source"] or found["energy_absent"]


def test_a_slow_machine_is_waited_for_marked_and_counted(tmp_path: Path) -> None:
    remembered = tmp_path / "yardstick.json"
    remembered.write_text("[[1.0, 1.0]]")  # once it took a nanosecond: it is slow ever since
    write_fake(tmp_path / "slow", SIGNATURE, Behaviour(latency_ms=4))
    artifact = Artifact(tmp_path / "slow", "slow", "onnx", SIGNATURE, (), {})
    key = SessionKey("fake", "slow", "fake", "default", "cpu")
    workload = Workload(batch=2)
    feeds = SIGNATURE.feeds(workload.sizes)
    with LiveSession(
        key, artifact, Tolerance(), RuntimeEntry(timeout=5), 1, tmp_path / "logs"
    ) as session:
        (found,) = visit(
            [(session, Cell("fake", "slow", "fake", "default", "two", "cpu"))],
            workload,
            {key: feeds},
            {"slow": expected_outputs(SIGNATURE, feeds)},
            replace(PLAN, patience_s=0.3, max_seconds=0.3),
            seed=3,
            on_progress=lambda text, fraction: None,
            yardstick=Yardstick(1, remembered),
        )
    assert found.failure is None
    assert 0.3 <= found.spent["machine_waited_s"] < 3
    conditions = found.measurement.conditions
    assert conditions.disturbed_by["speed"] == found.measurement.samples.kept.size
    assert conditions.figures["machine_speed"] < SLOW
