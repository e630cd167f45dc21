from __future__ import annotations

import math

import pytest

from reports import units


@pytest.mark.parametrize(
    ("p50", "low", "high", "shown"),
    [
        (4.312, 4.281, 4.349, "4.31 ms [4.28, 4.35]"),
        (0.0421, 0.0418, 0.0425, "42.1 µs [41.8, 42.5]"),
        (612.4, 610.0, 615.2, "612 ms [610, 615]"),
        (12_345.0, None, None, "12.3 s"),
        (None, None, None, units.NOTHING),
    ],
)
def test_latency_shows_value_and_interval_in_one_unit(p50, low, high, shown) -> None:
    row = {"latency_p50_ms": p50, "latency_p50_low_ms": low, "latency_p50_high_ms": high}
    assert units.latency(row) == shown


def test_latency_says_insufficient_when_the_sample_is_too_small() -> None:
    row = {"latency_p99_ms": None, "insufficient": "p90, p99"}
    assert units.latency(row, "p99") == "insufficient"
    assert units.latency(row, "p50") == units.NOTHING


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (18_454_938, "17.6 MiB"), (3 * 2**40, "3072 GiB")],
)
def test_binary_uses_powers_of_1024(count: int, shown: str) -> None:
    assert units.binary(count) == shown


def test_points_never_shows_a_negative_zero() -> None:
    assert units.points(-0.00001) == "0.00"
    assert units.points(0.00214) == "0.21"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.083, "83 ms"), (2.44, "2.4 s"), (83.2, "1 min 23 s"), (119.7, "2 min 0 s")],
)
def test_seconds_carries_into_minutes(value: float, shown: str) -> None:
    assert units.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, units.NOTHING), (math.inf, "inf"), (12345.6, "12,346"), (0.00123, "0.00123")],
)
def test_number_keeps_three_digits(value: float | None, shown: str) -> None:
    assert units.number(value) == shown
