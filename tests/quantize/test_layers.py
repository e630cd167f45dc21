"""Formats by layer: one recipe stores some layers in 8 bits, others in 4, and leaves the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from compile.artifact import Store
from compile.errors import InputError
from compile.graph import count_ops, load_onnx
from quantize.audit import PassFailed
from quantize.build import build
from quantize.recipe import Recipe, recipe_from_table
from quantize.rounding.rtn import round_to_nearest


def recipe(*passes: dict[str, Any]) -> Recipe:
    return recipe_from_table("mixed", {"passes": list(passes)}, "test")


def quiet(_: str) -> None:
    pass


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("first", ["int8", "int4"])
def test_each_layer_has_the_format_that_was_asked_for_it(
    mode: str, first: str, graphs, examples, store: Store
) -> None:
    source = graphs.put(graphs.ffn())
    passes = [
        {"pass": "int8", "mode": mode, "layers": ["up*"]},
        {"pass": "int4", "layers": ["down"], "accuracy_level": 0},
    ]
    built = build(
        recipe(*(passes if first == "int8" else passes[::-1])),
        source,
        "onnx",
        store,
        examples(graphs.FFN),
        quiet,
    )
    facts = {entry.step: entry.facts for entry in built.lineage}
    assert facts["int8"]["layers"] == facts["int4"]["layers"] == 1
    assert built.facts["float_products"] == 0
    tensors = {t.name: numpy_helper.to_array(t) for t in load_onnx(built.folder).graph.initializer}
    assert tensors["up.weight__s8"].dtype == np.int8
    kernels = count_ops(load_onnx(built.folder))
    assert kernels["MatMulNBits"] == 1
    assert kernels["MatMulInteger" if mode == "dynamic" else "QuantizeLinear"] == 1


def test_the_rest_stays_as_it_was(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(
        recipe({"pass": "int4", "layers": ["down.weight"], "accuracy_level": 0}),
        source,
        "onnx",
        store,
        None,
        quiet,
    )
    before = {t.name: t for t in load_onnx(source.folder).graph.initializer}
    after = {t.name: t for t in load_onnx(built.folder).graph.initializer}
    assert after["up.weight"].raw_data == before["up.weight"].raw_data
    # The graph as it would be with the rounded weight in its place.
    model = load_onnx(source.folder)
    weight = numpy_helper.to_array(before["down.weight"])
    codes = round_to_nearest(weight, 32, True, 4)
    for tensor in model.graph.initializer:
        if tensor.name == "down.weight":
            rounded = codes.dequantize().astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, "down.weight"))
    feeds = graphs.FFN.feeds({"batch": 2, "sequence": 5}, 1)
    got, want = graphs.run(built.folder / "model.onnx", feeds), graphs.run(model, feeds)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_slip_of_the_pen_and_a_layer_asked_for_twice_are_refused(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())

    def built(*passes: dict[str, Any]) -> None:
        build(recipe(*passes), source, "onnx", store, None, quiet)

    with pytest.raises(PassFailed, match=r"layers 'dwon\*': expected a layer .*like 'down'"):
        built({"pass": "int4", "layers": ["dwon*"]})
    with pytest.raises(PassFailed, match=r"int4: layers 'down': expected a layer .*none"):
        built({"pass": "int8", "layers": ["down"]}, {"pass": "int4", "layers": ["down"]})
    with pytest.raises(PassFailed, match="all 2 are excluded by name"):
        built({"pass": "int8", "layers": ["down"], "exclude": ["*"]})


@pytest.mark.parametrize(
    "passes",
    [
        ({"pass": "int8"}, {"pass": "int4", "layers": ["down"]}),
        ({"pass": "int8", "layers": ["up"]}, {"pass": "int4"}),
        ({"pass": "fp16"}, {"pass": "int4", "layers": ["down"]}),
    ],
)
def test_two_formats_need_layers_of_their_own(passes) -> None:
    with pytest.raises(InputError, match="each with layers of its own"):
        recipe(*passes)
