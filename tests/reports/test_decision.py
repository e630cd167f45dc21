from __future__ import annotations

import json

import pytest

from reports.decision import decide


def drop(value: float, half: float) -> dict[str, float]:
    return {
        "accuracy_drop": value,
        "accuracy_drop_low": value - half,
        "accuracy_drop_high": value + half,
        "accuracy_drop_bound": value + 0.84 * half,
    }


def test_decide_ships_the_fastest_row_whose_bound_is_below_the_allowed_drop(make_row) -> None:
    [decision] = decide(
        [
            make_row("fp32", latency_p50_ms=10.0, artifact_bytes=1000),
            make_row("int8", latency_p50_ms=4.0, artifact_bytes=260, **drop(0.002, 0.004)),
            make_row("int4", latency_p50_ms=2.0, artifact_bytes=170, **drop(0.02, 0.004)),
        ]
    )
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int8"
    assert decision.baseline is not None
    assert decision.baseline["recipe"] == "fp32"
    assert decision.speedup is not None
    assert decision.speedup.value == pytest.approx(2.5)
    assert decision.speedup.low == pytest.approx(9.9 / 4.04)
    assert decision.speedup.high == pytest.approx(10.1 / 3.96)
    assert decision.most_accurate is not None
    assert decision.most_accurate["recipe"] == "fp32"
    assert decision.smallest is decision.ship
    assert "2.50x [2.45, 2.55] as fast as the best fp32" in decision.sentence
    assert "0.26 of its size" in decision.sentence
    assert "0.20 points [-0.20, 0.60]" in decision.sentence
    assert "at most 0.54 where 1.00 is allowed" in decision.sentence
    assert any("int4" in c and "is faster" in c for c in decision.caveats)


def test_decide_refuses_a_small_drop_that_too_few_examples_cannot_bound(make_row) -> None:
    rows = [
        make_row("fp32"),
        make_row("int8", latency_p50_ms=4.0, examples=200, **drop(0.005, 0.03)),
    ]
    [decision] = decide(rows)
    assert decision.ship is not None
    assert decision.ship["recipe"] == "fp32"
    [(row, why)] = decision.refused
    assert row["recipe"] == "int8"
    assert why.startswith("200 examples cannot rule out a drop of 3.02 points")
    [wider] = decide(rows, allowed_drop=0.04)
    assert wider.ship is not None
    assert wider.ship["recipe"] == "int8"


def test_decide_refuses_a_bound_that_equals_the_allowed_drop(make_row) -> None:
    [decision] = decide([make_row("int8", accuracy_drop_bound=0.01)])
    assert decision.ship is None
    assert "none within a drop of 1.00 points, the most that is allowed" in decision.sentence


def test_decide_takes_a_build_without_any_drop_when_none_is_allowed(make_row) -> None:
    same = {"accuracy_drop_low": 0.0, "accuracy_drop_high": 0.0, "accuracy_drop_bound": 0.0}
    [decision] = decide([make_row("fp32", **same), make_row("int8", latency_p50_ms=4.0)], 0.0)
    assert decision.ship is not None
    assert decision.ship["recipe"] == "fp32"


def test_decide_names_a_tie_and_prefers_the_smaller_artifact(make_row) -> None:
    [decision] = decide(
        [
            make_row("fp32"),
            make_row("int8-dynamic", latency_p50_ms=4.00, artifact_bytes=300),
            make_row("int8-static", latency_p50_ms=4.02, artifact_bytes=260),
        ]
    )
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int8-static"
    assert [row["recipe"] for row in decision.tied] == ["int8-dynamic", "int8-static"]
    assert "No significant difference" in decision.caveats[0]
    assert "int8-dynamic" in decision.caveats[0]


def test_decide_prefers_fewer_steps_when_speed_and_size_are_equal(make_row) -> None:
    [decision] = decide(
        [
            make_row("long", latency_p50_ms=4.0, lineage='[{"step": "a"}, {"step": "b"}]'),
            make_row("short", latency_p50_ms=4.01, lineage='[{"step": "a"}]'),
        ]
    )
    assert decision.ship is not None
    assert decision.ship["recipe"] == "short"


@pytest.mark.parametrize(
    ("column", "value"),
    [("contract_threads", 8), ("contract_precision", "bf16"), ("contract_clock", "cuda-events")],
)
def test_decide_does_not_rank_a_row_of_another_contract(make_row, column, value) -> None:
    [decision] = decide(
        [
            make_row("fp32"),
            make_row("fp16"),
            make_row("int8", latency_p50_ms=1.0, **{column: value}),
        ]
    )
    assert decision.ship is not None
    assert decision.ship["recipe"] != "int8"
    [(row, why)] = decision.unranked
    assert row["recipe"] == "int8"
    assert f"{column.removeprefix('contract_')} is {value}" in why
    assert any("int8" in caveat for caveat in decision.caveats)


def test_decide_says_so_when_builds_were_measured_in_different_blocks(make_row) -> None:
    [decision] = decide(
        [make_row("fp32", block="a"), make_row("int8", latency_p50_ms=4.0, block="b")]
    )
    assert any("one interleaved block" in caveat for caveat in decision.caveats)


@pytest.mark.parametrize(
    ("counts", "said"),
    [((1, 1), "Each build was measured in one"), ((None, 5), "Some builds were"), ((5, 5), None)],
)
def test_decide_says_what_intervals_of_one_process_do_not_hold(make_row, counts, said) -> None:
    rows = [make_row(name, processes=n) for name, n in zip(("fp32", "int8"), counts, strict=True)]
    [decision] = decide(rows)
    told = [caveat for caveat in decision.caveats if "in one process" in caveat]
    assert [caveat.startswith(said) for caveat in told] == ([True] if said else [])


def test_decide_judges_by_fidelity_when_there_is_no_accuracy(make_row) -> None:
    nothing = dict.fromkeys(
        ("accuracy", "accuracy_drop", "accuracy_drop_low", "accuracy_drop_high")
    ) | {"accuracy_drop_bound": None}
    [decision] = decide(
        [
            make_row("fp32", top1_agreement=1.0, **nothing),
            make_row(
                "int8",
                latency_p50_ms=4.0,
                top1_agreement=0.995,
                metric="bits_per_byte",
                metric_value=1.234,
                metric_reference=1.21,
                **nothing,
            ),
            make_row("int4", latency_p50_ms=2.0, top1_agreement=0.9, **nothing),
        ]
    )
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int8"
    assert decision.sentence.endswith("; bits_per_byte 1.23 where the reference has 1.21.")
    assert any("judged by fidelity" in c and "99.50 %" in c for c in decision.caveats)
    assert [why for _, why in decision.refused] == [
        "10.00 % of its predictions differ from the reference's"
    ]


def test_decide_counts_statuses_when_every_cell_failed(make_row) -> None:
    [decision] = decide(
        [
            make_row("fp32", status="error", reason="x", latency_p50_ms=None),
            make_row("int8", status="error", reason="x", latency_p50_ms=None),
            make_row("int4", status="timeout", reason="x", latency_p50_ms=None),
        ]
    )
    assert decision.ship is None
    assert "no build was measured (2 error, 1 timeout)" in decision.sentence


def test_decide_answers_each_model_workload_and_device_apart(make_row) -> None:
    decisions = decide(
        [
            make_row("fp32", workload="b1"),
            make_row("fp32", workload="b8"),
            make_row("fp32", workload="b8", device="cuda:0"),
            make_row("fp32", workload="b1", model="other"),
        ]
    )
    assert [(d.model, d.workload, d.device) for d in decisions] == [
        ("tiny", "b1", "cpu"),
        ("tiny", "b8", "cpu"),
        ("tiny", "b8", "cuda:0"),
        ("other", "b1", "cpu"),
    ]


def test_decide_works_without_a_reference_recipe_and_without_optional_columns(bare_row) -> None:
    [decision] = decide([bare_row])
    assert decision.ship is not None
    assert decision.speedup is None
    assert decision.sentence == "Ship r on t for m, w on cpu: 3.00 ms."
    assert any("no interval" in caveat for caveat in decision.caveats)


def test_decide_mentions_a_fallback_of_what_it_ships(make_row) -> None:
    [decision] = decide([make_row("fp32", fallback="12 nodes ran on the CPU")])
    assert any("12 nodes ran on the CPU" in caveat for caveat in decision.caveats)


def test_decide_is_empty_without_rows() -> None:
    assert decide([]) == []


def took_turns(make_row, times: dict[str, float], half: float, **columns) -> list:
    """Rows of one block on a machine too restless for any median: only ratios are known."""
    ids = {recipe: f"id-{recipe}" for recipe in times}
    return [
        make_row(
            recipe,
            cell_id=ids[recipe],
            latency_p50_ms=None,
            latency_p50_low_ms=None,
            latency_p50_high_ms=None,
            insufficient="p50",
            compared=json.dumps(
                {
                    ids[other]: [time / theirs, time / theirs / half, time / theirs * half]
                    for other, theirs in times.items()
                    if other != recipe
                }
            ),
            **columns,
        )
        for recipe, time in times.items()
    ]


def test_decide_ranks_by_common_rounds_where_no_latency_is_known(make_row) -> None:
    [decision] = decide(took_turns(make_row, {"fp32": 10.0, "int8": 4.0, "int4": 8.0}, 1.1))
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int8"
    assert decision.tied == ()
    assert decision.speedup is not None
    assert decision.speedup.value == pytest.approx(2.5)
    assert (decision.speedup.low, decision.speedup.high) == pytest.approx((2.5 / 1.1, 2.5 * 1.1))
    assert "its own latency not known closely enough" in decision.sentence
    assert any("too restless" in caveat for caveat in decision.caveats)


def test_latencies_of_unlike_turns_do_not_belie_the_speed_up(make_row) -> None:
    fp32, int8 = took_turns(make_row, {"fp32": 10.0, "int8": 9.0}, 1.05)

    def known(row, p50: float):
        ends = {"latency_p50_low_ms": p50 * 0.98, "latency_p50_high_ms": p50 * 1.02}
        return {**row, "latency_p50_ms": p50, **ends}

    # 1.11x by rounds, yet the reference's own turns came while the machine was fast.
    [decision] = decide([known(fp32, 8.0), known(int8, 9.0)])
    assert "(8.00 ms [7.84, 8.16], at another speed of the machine)" in decision.sentence
    [decision] = decide([known(fp32, 10.0), known(int8, 9.0)])
    assert "(10.0 ms [9.8, 10.2])" in decision.sentence


def test_decide_calls_a_tie_what_common_rounds_cannot_tell_apart(make_row) -> None:
    rows = took_turns(make_row, {"fp32": 10.0, "int8": 4.0, "int4": 4.08}, 1.04)
    rows[2] = {**rows[2], "artifact_bytes": rows[1]["artifact_bytes"] // 2}
    [decision] = decide(rows)
    assert {row["recipe"] for row in decision.tied} == {"int8", "int4"}
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int4"


def test_decide_trusts_common_rounds_more_than_medians(make_row) -> None:
    """Medians whose wide intervals meet, from rounds that tell the two apart."""
    fast, slow = took_turns(make_row, {"fp32": 1.0, "int8": 1.2}, 1.02)
    wide = {"latency_p50_low_ms": 3.0, "latency_p50_high_ms": 9.0, "insufficient": None}
    rows = [{**fast, **wide, "latency_p50_ms": 6.0}, {**slow, **wide, "latency_p50_ms": 5.0}]
    [decision] = decide(rows)
    assert decision.ship is not None
    assert decision.ship["recipe"] == "fp32"
    assert decision.tied == ()


def test_decide_does_not_ship_for_its_size_what_may_be_much_slower(make_row) -> None:
    rows = took_turns(make_row, {"fp32": 10.0, "int8": 4.0, "int4": 6.0}, 1.9)
    rows[2] = {**rows[2], "artifact_bytes": rows[1]["artifact_bytes"] // 2}
    [decision] = decide(rows)
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int8"
    assert decision.tied == ()
    assert any("nor known to be close: int4" in caveat for caveat in decision.caveats)


def test_decide_compares_blocks_by_way_of_builds_that_have_medians(make_row) -> None:
    """A block of ratios only beside a smaller one with medians: one common row has both."""
    restless = took_turns(make_row, {"fp32": 10.0, "int8": 5.0, "fp16": 9.0}, 1.02)
    restless[0] = {**restless[0], "latency_p50_ms": 10.0}
    other = make_row("int4", cell_id="other", latency_p50_ms=2.0, block="second")
    [decision] = decide([*restless, other])
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int4"


def test_decide_names_what_nothing_compares_with_the_rest(make_row) -> None:
    restless = took_turns(make_row, {"fp32": 10.0, "int8": 5.0}, 1.02)
    other = make_row("int4", cell_id="other", latency_p50_ms=2.0, block="second")
    [decision] = decide([*restless, other])
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int8"
    [(row, why)] = decision.unranked
    assert row["recipe"] == "int4"
    assert "nothing compares it" in why


def test_decide_says_faster_only_of_what_is_known_to_be(make_row) -> None:
    rows = took_turns(make_row, {"fp32": 10.0, "int8": 5.0, "int4": 4.9}, 1.1)
    rows[2] = {**rows[2], **drop(0.05, 0.01)}
    [decision] = decide(rows)
    assert decision.ship is not None
    assert decision.ship["recipe"] == "int8"
    assert not any("is faster" in caveat for caveat in decision.caveats)


def test_a_language_model_is_refused_by_its_bits_per_byte(make_row) -> None:
    drop = {
        "metric": "bits_per_byte",
        "accuracy_drop": 0.02,
        "accuracy_drop_low": 0.015,
        "accuracy_drop_high": 0.025,
        "accuracy_drop_bound": 0.024,
    }
    (decision,) = decide([make_row("int4", **drop)])
    assert "none within a rise of 1.00 %, the most that is allowed" in decision.sentence
    ((_, why),) = decision.refused
    assert why == "rise in bits per byte 2.00 % [1.50, 2.50], 1.00 allowed"


def test_what_ran_but_is_not_known_closely_is_told_as_such(make_row) -> None:
    row = make_row("fp32", latency_p50_ms=None, compared=None)
    (decision,) = decide([row])
    assert "no build's latency is known closely enough" in decision.sentence
    assert "(1 ok)" in decision.sentence
