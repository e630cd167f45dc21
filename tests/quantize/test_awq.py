from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from compile.artifact import Store
from compile.errors import InputError
from compile.graph import MODEL, count_ops, load_onnx
from quantize.audit import PassFailed, decibels, signal_and_noise
from quantize.awq import ALPHAS, scales_of, search_scales
from quantize.build import build
from quantize.gram import InputStatistics, squared_error
from quantize.recipe import load_recipe, recipe_from_table
from quantize.rounding.rtn import round_to_nearest


def quiet(_: str) -> None:
    pass


def recipe(*passes: dict):
    return recipe_from_table("r", {"passes": list(passes)}, "test")


class Loud:
    """Inputs of which three channels carry thirty times as much as the others."""

    fingerprint = "loud"

    def __init__(self, signature, gain: float = 30) -> None:
        self.signature = signature
        self.gains = np.ones(96, np.float32)
        self.gains[[3, 40, 77]] = gain

    def calibration_examples(self, most: int) -> int:
        return most

    def calibration(self, examples: int) -> Iterator[dict]:
        for seed in range(examples):
            feeds = self.signature.feeds({"batch": 1, "sequence": 4 + seed % 3}, seed)
            yield {"x": feeds["x"] * self.gains}


def nearest(weight: np.ndarray) -> np.ndarray:
    return round_to_nearest(weight, 32, True).dequantize()


def test_search_finds_the_least_error_and_says_what_it_was() -> None:
    """Against the outputs themselves, in float64, of every point of the grid."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((512, 64)) * np.where(np.arange(64) < 3, 20, 1)
    weight = random.standard_normal((64, 32)).astype(np.float32)
    seen = InputStatistics.of_width(64)
    seen.add(inputs.astype(np.float32))
    found = search_scales([weight], seen, nearest)

    def lost(alpha: float) -> float:
        scales = scales_of(seen.magnitudes, alpha)[:, None].astype(np.float64)
        rounded = nearest((weight * scales).astype(np.float32)) / scales
        return float(
            np.square(inputs @ (rounded - weight)).sum() / np.square(inputs @ weight).sum()
        )

    every = {alpha: lost(alpha) for alpha in (0.0, *ALPHAS)}
    best = min(every, key=lambda alpha: every[alpha])
    assert found.alpha == best > 0
    assert found.error == pytest.approx(every[best], rel=1e-3)
    assert found.error_before == pytest.approx(every[0.0], rel=1e-3)
    assert found.error < 0.4 * found.error_before


def test_scales_are_centred_and_take_an_unseen_input_for_the_quietest() -> None:
    scales = scales_of(np.array([0.0, 0.5, 2.0, 8.0], np.float32), 0.5)
    np.testing.assert_allclose(scales, [0.5, 0.5, 1.0, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(scales_of(np.zeros(3), 0.5), np.ones(3))


def test_scaled_graph_computes_the_same_and_rounds_better(graphs, store: Store) -> None:
    source, data = graphs.put(graphs.ffn()), Loud(graphs.FFN)
    awq, int4 = {"pass": "awq", "examples": 32}, {"pass": "int4", "accuracy_level": 0}
    with pytest.raises(InputError, match="has to come behind it"):
        recipe(awq)
    built = build(recipe(awq, int4), source, "onnx", store, data, quiet)
    plain = build(recipe(int4), source, "onnx", store, None, quiet)
    step = next(entry for entry in built.lineage if entry.step == "awq")
    assert step.facts["snr_db"] > 80
    assert step.facts["alpha"]["up"] > 0
    assert step.facts["error_ratio"]["up"] < 0.6
    # x is the graph's own input and GELU is not linear: nobody can take their scale.
    assert (step.facts["absorbed"], step.facts["inserted"]) == (
        0,
        1 + (step.facts["alpha"]["down"] > 0),
    )
    want, ours, theirs = (
        np.concatenate([graphs.run(a.folder / MODEL, f).reshape(-1) for f in data.calibration(32)])
        for a in (source, built, plain)
    )
    gained = decibels(*signal_and_noise(want, ours)) - decibels(*signal_and_noise(want, theirs))
    assert gained > 2


def test_with_gptq_it_is_never_worse_than_either_alone(graphs, store: Store) -> None:
    source, data = graphs.put(graphs.ffn()), Loud(graphs.FFN)
    gptq = {"rounding": "gptq", "examples": 32}
    awq = {"pass": "awq", "examples": 32}
    int4 = {"pass": "int4", "accuracy_level": 0}
    want = [graphs.run(source.folder / MODEL, f) for f in data.calibration(32)]

    def ratio(*passes: dict) -> float:
        built = build(recipe(*passes), source, "onnx", store, data, quiet)
        got = [graphs.run(built.folder / MODEL, f) for f in data.calibration(32)]
        flat = (np.concatenate([each.reshape(-1) for each in side]) for side in (want, got))
        return decibels(*signal_and_noise(*flat))

    both = ratio({**awq, **gptq}, {**int4, **gptq})
    assert both >= ratio({**int4, **gptq}) - 0.1
    assert both >= ratio(awq, int4) - 0.1


def test_inputs_that_are_all_alike_gain_nothing_and_that_is_an_error(
    graphs, examples, store: Store
) -> None:
    source = graphs.put(graphs.flat(), graphs.FLAT)

    class Signs(examples):
        """Inputs of one and the same magnitude: no power of it tells them apart."""

        def calibration(self, examples: int) -> Iterator[dict]:
            random = np.random.default_rng(0)
            for _ in range(examples):
                yield {"x": random.choice([-1, 1], (8, 96)).astype(np.float32)}

    asked = recipe({"pass": "awq", "examples": 16}, {"pass": "int4"})
    with pytest.raises(PassFailed, match=r"effect: expected a layer that loses less.*leave it out"):
        build(asked, source, "onnx", store, Signs(graphs.FLAT), quiet)


def test_without_inserting_what_nobody_can_take_is_left(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    asked = recipe({"pass": "awq", "examples": 16, "insert": False}, {"pass": "int4"})
    with pytest.raises(PassFailed, match="none; leave it out"):
        build(asked, source, "onnx", store, Loud(graphs.FFN), quiet)


@pytest.mark.parametrize(
    ("key", "value"), [("block", 64), ("bits", 8), ("symmetric", False), ("rounding", "hqq")]
)
def test_it_has_to_know_the_rounding_that_follows(key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"have to agree about {key}"):
        recipe({"pass": "awq", key: value}, {"pass": "int4"})


@pytest.mark.parametrize("name", ["int4-awq", "int4-awq-gptq"])
def test_shipped_recipes_make_what_they_say(name: str, graphs, tmp_path, store: Store) -> None:
    source, data = graphs.put(graphs.ffn()), Loud(graphs.FFN)
    built = build(load_recipe(name, tmp_path), source, "onnx", store, data, quiet)
    assert count_ops(load_onnx(built.folder))["MatMulNBits"] == 2


def test_squared_error_is_that_of_the_outputs() -> None:
    random = np.random.default_rng(3)
    inputs, change = random.standard_normal((200, 12)), random.standard_normal((12, 5))
    gram = inputs.T @ inputs / 200
    assert squared_error(change, gram) == pytest.approx(
        np.square(inputs @ change).sum() / 200, rel=1e-9
    )
