"""``[workloads.NAME.load]``: what may be written, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from compile.errors import InputError
from suites.gate.run import Recipes, gate
from suites.reading import read_suite

SUITE = """
[matrix]
model = ["bert-tiny"]
workload = ["one"]
[workloads.one]
{workload}
[workloads.one.load]
{load}
"""


@pytest.fixture
def read(tmp_path: Path):
    def read_load(load: str, workload: str = "sequence = 8"):
        path = tmp_path / "load.toml"
        path.write_text(SUITE.format(load=load, workload=workload))
        return read_suite(str(path))[0].workloads["one"].load

    return read_load


SLO = "[workloads.one.load.slo]\ne2el_ms = 50"


@pytest.mark.parametrize(
    ("load", "kind", "turns", "seconds", "shape"),
    [
        ("rate = 60", "open", 4, 2.0, 1.0),
        ('rate_share = 0.7\narrivals = "gamma"\nburstiness = 0.5', "open", 4, 2.0, 0.5),
        ("concurrency = 8\nslots = 2\nseconds = 1", "closed", 4, 1.0, 1.0),
        ("concurrency = 64\nrequests = 320", "closed", 4, None, 1.0),
        (f"capacity = true\nrequests = 300\n{SLO}", "capacity", 16, None, 1.0),
        (f"capacity = true\nprobes = 9\n{SLO}", "capacity", 9, 2.0, 1.0),
    ],
)
def test_three_kinds_of_load(read, load, kind, turns, seconds, shape) -> None:
    table = read(load)
    assert (table.kind, table.most_turns, table.episode_seconds, table.shape) == (
        *(kind, turns, seconds, shape),
    )


@pytest.mark.parametrize(
    ("load", "told"),
    [
        ("slots = 1", "give one of rate, rate_share, concurrency and capacity"),
        ("rate = 5\nconcurrency = 2", "not rate and concurrency"),
        ("rate = 0", r"workloads\.one\.load\.rate"),
        ("rate = inf", r"workloads\.one\.load\.rate"),
        ('rate = "60"', r"load\.rate: input should be a valid number \(found '60'\)"),
        ("rate = true", r"load\.rate: input should be a valid number \(found True\)"),
        ("rate = 5\nseconds = true", r"load\.seconds: input should be a valid number"),
        ('concurrency = "4"', r"load\.concurrency: input should be a valid integer"),
        ("rate = 500001", "1,000,002 requests an episode, more than 1,000,000"),
        ("rate = 5\nslo = 5", r"load\.slo: must be a table, \[workloads\.one\.load\.slo\]"),
        ('rate = 5\narrivals = "gamma"', "needs burstiness"),
        ("rate = 5\nburstiness = 0.5", 'belongs to arrivals = "gamma"'),
        ('concurrency = 5\narrivals = "gamma"\nburstiness = 2', "belong to an open loop"),
        ("concurrency = 2\nslots = 3", "slots must be at most concurrency"),
        ("concurrency = 64\nrequests = 319", "requests must be at least 320, 5 times concurrency"),
        ("rate = 5\nseconds = 2\nrequests = 100", "seconds or requests, not both"),
        ("rate = 5\nprobes = 8", "probes belongs to capacity"),
        ("capacity = true", r"needs \[workloads\.NAME\.load\.slo\]"),
        (f"capacity = true\nepisodes = 4\n{SLO}", "probes instead of episodes"),
        (f"rate = 5\n{SLO}\nshare = 1.0", r"load\.slo\.share"),
        ("rate = 5\nclients = 3", "unknown 'clients', allowed are rate, rate_share"),
        (f"rate = 5\n{SLO}\nttft_ms = 3", "unknown 'ttft_ms', allowed are e2el_ms, share"),
    ],
)
def test_a_mistake_names_the_key_and_the_way_out(read, load, told) -> None:
    with pytest.raises(InputError, match=told):
        read(load)


def test_a_value_where_the_table_should_be_is_told_in_tomls_words(tmp_path) -> None:
    path = tmp_path / "load.toml"
    text = SUITE.format(workload="load = 5", load="").replace("[workloads.one.load]", "")
    path.write_text(text)
    with pytest.raises(InputError, match=r"must be a table, \[workloads\.one\.load\] or"):
        read_suite(str(path))


def test_load_is_for_forward_calls(read) -> None:
    with pytest.raises(InputError, match="decode has none"):
        read("rate = 5", workload='kind = "decode"\npast = 8')


def test_a_gate_refuses_a_load_workload(suite_file) -> None:
    suite = suite_file(more="[workloads.three.load]\nrate = 5")
    text = suite.read_text().replace('workload = ["one", "two"]', 'workload = ["one", "three"]')
    suite.write_text(text)
    with pytest.raises(InputError, match=r"workloads\.three\.load: a gate judges calls made one"):
        gate(str(suite), Recipes("fp32", "fp32"))
