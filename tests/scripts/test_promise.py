"""Counting recorded gates: made-up lines, whose counts are known."""

import json
import tomllib

import numpy as np
import pytest
from scipy import integrate, stats

from scripts.promise import self_normalised
from scripts.promise.counts import replayed, show
from scripts.promise.gates import SUITES, Kind, read
from scripts.promise.simulation import METHODS, decided


def entry(outcome, differences, slow_down=0.0, **more):
    cell = {"cell": "c", "outcome": outcome, "differences": differences, "pair_own_s": 0.5}
    return {"slow_down": slow_down, "comparisons": 1, "seconds": 12.0, "cells": [cell], **more}


def lines_of(gates):
    return [line for line in show(gates, 10).splitlines() if line.startswith("| ")][:-5]


def test_show_counts_outcomes_by_kind():
    gates = [
        entry("pass", [0.001, -0.001, 0.003] * 2),
        entry("pass", [0.0, 0.001] * 4),
        entry("regressed", [0.05] * 11, slow_down=0.05),
        entry("inconclusive", [0.03] * 60, slow_down=0.05),
        entry("pass", [0.01, -0.02] * 5, neighbours=2),
    ]
    _, quiet, loud, slow = lines_of(gates)
    assert quiet.startswith("| 0% | 1 | 0 | 2 | 0 | 2 | 0 |")
    assert quiet.endswith("| 7, 8 | 12, 12 |")
    assert loud.startswith("| 0% | 1 | 2 | 1 | 0 | 1 | 0 | 2.2% |")  # 1.4826 times 1.5 %
    assert slow.startswith("| 5% | 1 | 0 | 2 | 1 | 0 | 1 |")
    text = show(gates, 10)
    assert "3 comparisons of 24 pairs: 54.2% of the pairs say slower" in text
    assert "2 comparisons have a positive median" in text


def test_show_says_how_far_peaks_of_one_build_lie_apart():
    def with_peaks(*peaks, outcome="pass"):
        gate = entry("pass", [0.0] * 4)
        gate["cells"][0] |= {"peak_outcome": outcome, "peak_bytes": [list(p) for p in peaks]}
        return gate

    told = show(
        [
            entry("pass", [0.0] * 4),  # of before there was a rule
            with_peaks((100, 100), (105, 100), (100, 100)),
            with_peaks((120, 100), (120, 100), (100, 110), outcome="inconclusive"),
        ],
        replays=1,
    )
    assert "of 2 comparisons without a slow-down: a pair's growth is -9.1% to +20.0%" in told
    assert "medians of 3 pairs +0.0% to +20.0%" in told
    assert "Held to 10%: 1 pass, 1 are inconclusive, 0 regressed." in told


def test_replays_of_noise_alarm_as_rarely_as_promised_at_the_edge_and_always_beyond_it():
    noise = np.random.default_rng(0).normal(0, 0.02, 40).tolist()
    same = entry("pass", noise)["cells"]
    assert replayed(same, 1, stops=False, slow_down=0.01, replays=1000) <= 10  # 1 % is promised
    assert replayed(same, 1, stops=True, slow_down=0.10, replays=100) == 100


def test_replays_stop_where_a_gate_would_have_passed():
    # Six pairs at zero pass; what comes after them would alarm.
    same = entry("pass", [0.0] * 12 + [0.5] * 48)["cells"]
    assert replayed(same, 1, stops=True, replays=20) == 0


def test_a_line_that_was_cut_short_is_left_out(tmp_path):
    file = tmp_path / "gates.jsonl"
    whole = json.dumps(entry("pass", [0.0] * 6))
    file.write_text(f"{whole}\n{whole}\n{whole[:40]}")
    assert len(read(file)) == 2
    assert read(tmp_path / "none.jsonl") == []


def test_lines_without_neighbours_are_of_none():
    assert Kind.of(entry("pass", [0.0])) == Kind(0.0, 1, 0)


@pytest.mark.parametrize("comparisons", SUITES)
def test_suites_have_as_many_cells_as_they_are_named_for(comparisons):
    suite = tomllib.loads(SUITES[comparisons])
    matrix = suite["matrix"]
    cells = len(matrix["recipe"]) * len(matrix["workload"]) - len(suite.get("exclude", []))
    assert cells == comparisons
    assert set(matrix["workload"]) == set(suite["workloads"])


def test_the_other_evidence_is_its_mixture_over_stakes():
    values, rho = np.array([0.03, -0.01, 0.05, 0.2]), 0.01

    def weighed(stake):
        density = 2 * stats.norm.pdf(stake, scale=1 / np.sqrt(rho))
        return density * np.exp(stake * values.sum() - stake**2 * (values @ values) / 2)

    expected, _ = integrate.quad(weighed, 0, 200)
    assert self_normalised.log_evidence(values, rho)[-1] == pytest.approx(np.log(expected))


@pytest.mark.parametrize("method", METHODS)
def test_simulated_comparisons_end_as_they_must(method):
    assert decided(np.full(60, 0.0), method, 0.01)[0] == "pass"
    assert decided(np.full(60, 0.1), method, 0.01)[0] == "regressed"
    back_and_forth = np.tile([0.5, -0.5], 30)
    assert decided(back_and_forth, method, 0.5) == ("inconclusive", 60)
