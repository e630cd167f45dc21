from __future__ import annotations

import numpy as np
import pytest

from compile.errors import InputError
from compile.signature import Feeds, Signature, TensorSpec
from runtimes.feeds import check

DECODER = Signature(
    inputs=(
        TensorSpec("input_ids", "int64", ("batch", "sequence"), high=10),
        TensorSpec("attention_mask", "int64", ("batch", "total"), fill="ones"),
        TensorSpec("past", "float32", ("batch", 2, "past", 4)),
    ),
    outputs=(),
)


def feeds(**changed: np.ndarray | None) -> Feeds:
    made = {**DECODER.feeds({"batch": 2, "sequence": 3, "past": 1}), **changed}
    return {name: array for name, array in made.items() if array is not None}


@pytest.mark.parametrize("past", [0, 1, 7])
def test_check_accepts_what_the_signature_makes(past: int) -> None:
    check(DECODER, DECODER.feeds({"batch": 2, "sequence": 3, "past": past}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"past": None}, "input 'past' is missing; the model takes input_ids, attention_mask"),
        ({"labels": np.zeros(1)}, "input 'labels' is not one of the model's"),
        ({"input_ids": np.zeros((2, 3), np.int32)}, "'input_ids' is int32; the model takes int64"),
        ({"input_ids": np.zeros(3, np.int64)}, r"'input_ids' has 1 axes; the model takes 2: \(bat"),
        ({"past": np.zeros((2, 3, 1, 4), np.float32)}, r"'past' has 3 where .* 2, past, 4\) has 2"),
        (
            {"attention_mask": np.ones((1, 4), np.int64)},
            "axis 'batch' is 1 in input 'attention_mask' and 2 in input 'input_ids'",
        ),
        (
            {"attention_mask": np.ones((2, 3), np.int64)},
            r"'attention_mask' covers 3 tokens; past 1 \+ sequence 3 are 4",
        ),
    ],
)
def test_check_names_the_input_when_feeds_do_not_fit(
    changed: dict[str, np.ndarray | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check(DECODER, feeds(**changed))
