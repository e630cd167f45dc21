"""A plan that no measurement could follow is refused with the name of its setting."""

import math

import pytest

from compile.errors import InputError
from suites.measure.plan import MeasurePlan


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("precision", 0.0),
        ("precision", math.nan),
        ("precision", "2%"),
        ("confidence", 1.0),
        ("confidence", 0.4),
        ("growth", 1.0),
        ("min_samples", 5),
        ("first_look", 11),
        ("first_look", 32.5),
        ("max_samples", 31),
        ("min_rounds", 0),
        ("rewarm_calls", -1),
        ("rewarm_calls", True),
        ("min_seconds", -0.1),
        ("max_seconds", 0.1),
        ("max_seconds", math.inf),
        ("block_seconds", 0.0),
        ("min_warmup_s", -1.0),
        ("max_warmup_s", 0.05),
        ("drift_tolerance", 0.0),
        ("disturbed_cores", 0.0),
    ],
)
def test_plan_names_the_setting_when_it_is_impossible(setting, value):
    with pytest.raises(InputError, match=setting):
        MeasurePlan(**{setting: value})


def test_plan_takes_whole_numbers_for_times():
    assert MeasurePlan(max_seconds=10, block_seconds=1).max_seconds == 10
