"""The promises of the intervals, counted. The same code prints the tables of docs/measuring.md."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "coverage.py"


@pytest.fixture(scope="module")
def proof():
    spec = importlib.util.spec_from_file_location("assay_coverage_proof", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("name", "n"), [("independent", 72), ("AR(0.5)", 162), ("AR(0.9)", 600), ("spikes", 72)]
)
def test_median_interval_holds_at_least_94_percent(proof, name, n):
    outcome = proof.quantile_coverage(name, n, 0.5, replications=1500)
    assert outcome.share_given > 0.9
    assert outcome.coverage >= 0.94


@pytest.mark.parametrize(
    ("name", "n"), [("independent", 450), ("AR(0.5)", 1500), ("AR(0.9)", 9000), ("spikes", 450)]
)
def test_p99_interval_holds_at_least_94_percent_where_it_is_supported(proof, name, n):
    outcome = proof.quantile_coverage(name, n, 0.99, replications=150 if n > 2000 else 1000)
    assert outcome.share_given > 0.5
    assert outcome.coverage >= 0.94


@pytest.mark.parametrize("name", ["independent", "AR(0.5)", "AR(0.9)", "spikes"])
@pytest.mark.parametrize("n", [32, 72])
def test_short_series_is_wrong_at_most_6_percent_however_dependent(proof, name, n):
    assert proof.quantile_coverage(name, n, 0.5, replications=800).misses <= 0.06


@pytest.mark.parametrize(
    ("name", "noise"),
    [("independent", 0.02), ("AR(0.5)", 0.02), ("AR(0.9)", 0.01), ("spikes", 0.05)],
)
def test_interval_at_the_stop_holds_at_least_94_percent(proof, name, noise):
    outcome, _ = proof.stopping_coverage(name, noise, replications=400)
    assert outcome.share_given > 0.95
    assert outcome.coverage >= 0.94


@pytest.mark.parametrize("name", ["independent", "AR(0.5)", "AR(0.9)", "spikes"])
@pytest.mark.parametrize("n", [32, 162])
def test_stationary_noise_is_called_drifting_in_less_than_one_percent(proof, name, n):
    assert proof.drift_rate(name, n, "none", 0.0, replications=800) < 0.01


@pytest.mark.parametrize(
    ("trend", "size", "n"),
    [("linear", 0.2, 72), ("step", 0.2, 72), ("slow warm-up", 0.5, 162), ("linear", 1.0, 162)],
)
def test_drift_is_found_in_at_least_nine_of_ten(proof, trend, size, n):
    assert proof.drift_rate("independent", n, trend, size, replications=200) > 0.9


@pytest.mark.parametrize("name", ["independent", "AR(0.5)", "spikes"])
def test_ratio_interval_holds_at_least_93_percent_on_a_drifting_machine(proof, name):
    assert proof.ratio_coverage(name, rounds=8, replications=800).coverage >= 0.93


def test_paired_interval_and_its_bound_hold(proof):
    for n, lost, gained in ((50, 0.1, 0.05), (400, 0.05, 0.02), (3200, 0.02, 0.015)):
        interval, bound = proof.paired_coverage(n, lost, gained, replications=600)
        assert interval >= 0.93, n
        assert bound >= 0.92, n


@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize(
    # Student's interval assumes as much of a correlation as 1/3; a half is too much for it.
    ("name", "least"),
    [("normal", 0.94), ("heavy tails", 0.94), ("two states", 0.94), ("correlated", 0.87)],
)
def test_interval_from_several_processes_holds(proof, name, k, least):
    held, _ = proof.process_coverage(name, k, replications=1500)
    assert held >= least
