"""A whole suite under load through the runner, on a session of known latency."""

from __future__ import annotations

import numpy as np
import pytest

import reports
from reports import tables
from suites.run import run

LOADS = """
[workloads.calm.load]
rate = 60
seconds = 0.5
episodes = 2
[workloads.calm.load.slo]
e2el_ms = 1000
share = 0.9
[workloads.full.load]
rate_share = 2.0
seconds = 0.2
episodes = 2
"""
MS = 1_000_000


@pytest.fixture
def measured(suite_file, tmp_path, monkeypatch):
    monkeypatch.setattr("suites.load.loaded_cell.PACE_S", 0.04)
    # The test writes the report itself, and needs no process for it.
    monkeypatch.setattr("suites.run._publish_apart", lambda out, show: None)
    suite = suite_file("latency_ms = 5.0", more=LOADS)
    named = '["one", "calm", "full"]'
    text = suite.read_text().replace('["one", "two"]', named)
    # The plain calls are done at their first look.
    suite.write_text(text.replace("[measure]", "[measure]\nprecision = 0.2\nblock_seconds = 0.04"))
    run(str(suite), tmp_path / "out")
    return reports.load(tmp_path / "out")


def test_load_cells_have_rows_samples_and_a_section_and_are_not_ranked(measured) -> None:
    rows = {row["workload"]: row for row in measured.rows}
    calm, full = rows["calm"], rows["full"]

    assert (calm["status"], calm["load"], calm["slo"]) == ("ok", "open", "90 % within 1000 ms")
    assert calm["requested_requests_per_s"] == 60
    assert 35 < calm["offered_requests_per_s"] < 85
    assert calm["achieved_over_offered"] == pytest.approx(1, abs=0.15)
    assert calm["e2el_mean_ms"] >= 5.0
    assert calm["slo_met_share"] == 1.0
    assert 0.15 < calm["utilisation"] < 0.9
    # What is held after the episodes is told, no peak: that would be of one call, not of the load.
    assert calm["memory_resident_bytes"] > 0
    assert (calm["memory_peak_bytes"], calm["memory_arena_peak_bytes"]) == (None, None)
    assert rows["one"]["memory_peak_bytes"] > 0
    assert calm["back_to_back_requests_per_s"] <= 200

    assert (full["status"], full["load"]) == ("not-stationary", "open")
    assert (calm["rate_share"], full["rate_share"]) == (None, 2)
    assert full["requested_requests_per_s"] == 2 * full["back_to_back_requests_per_s"]

    # The requests' times can be worked out again from the stored calls.
    samples = measured.samples_of(calm["cell_id"])
    kept = samples[samples["phase"] == "sample"]
    assert len(kept) == calm["requests"] == calm["samples"]
    e2el = (kept["start_ns"] + kept["latency_ns"] - kept["arrival_ns"]).astype(float)
    assert e2el.mean() / MS == pytest.approx(calm["e2el_mean_ms"])
    assert np.std(e2el) / MS == pytest.approx(calm["e2el_std_ms"])
    assert (samples["requested_requests_per_s"] == 60).all()
    # A fifth of the 0.5 s in which requests arrive is ramp-up.
    assert (kept["arrival_ns"] >= 100 * MS).all()
    assert (samples.loc[samples["phase"] == "warmup", "arrival_ns"] < 100 * MS).all()

    # What is recommended rests on the plain calls alone.
    decisions = reports.write(measured.folder)
    assert [decision.workload for decision in decisions] == ["one"]
    assert all(rows[name]["latency_p50_ms"] is None for name in ("calm", "full"))
    page, text = ((measured.folder / f"report.{end}").read_text() for end in ("html", "md"))
    assert "saturated" in page.split("<h2>Under load</h2>")[1].split("</section>")[0]
    assert "saturated" in text.split("## Under load")[1].split("##")[0]
    console = tables.screen()
    with console.capture() as shown:
        console.print(tables.terminal(measured))
    assert "under load" in shown.get()
