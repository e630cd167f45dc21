from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Store
from compile.errors import InputError, Unsupported
from compile.graph import array, load_onnx
from quantize.audit import PassFailed
from quantize.build import build
from quantize.emulated_half import emulated_half
from quantize.recipe import recipe_from_table

WIDTH = 96
RANDOM = np.random.default_rng(0)


def recipe(**parameters):
    return recipe_from_table("r", {"passes": [{"pass": "fp16", **parameters}]}, "test")


def quiet(_: str) -> None:
    pass


def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def graph_of(graphs, nodes: list[onnx.NodeProto], **numbers: np.ndarray) -> onnx.ModelProto:
    """Of x (batch, sequence, 96), with two products around ``nodes``, which make r of h."""
    nodes = [node("MatMul", ["x", "in"], "h"), *nodes, node("MatMul", ["r", "out"], "y")]
    weights = {name: RANDOM.standard_normal((WIDTH, WIDTH)) / 10 for name in ("in", "out")}
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", WIDTH])
        for name in "xy"
    ]
    constants = [
        numpy_helper.from_array(
            values if values.dtype == np.int64 else values.astype(np.float32), name
        )
        for name, values in {**weights, **numbers}.items()
    ]
    return graphs.finished(helper.make_graph(nodes, "g", infos[:1], infos[1:], constants))


def rms_norm(gain: float) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """r = h / sqrt(mean(h^2) + 1e-12), h of norm about ``gain``: its squares leave the range."""
    nodes = [
        node("Mul", ["h", "gain"], "loud"),
        node("Mul", ["loud", "loud"], "squares"),
        node("ReduceMean", ["squares", "last"], "power"),
        node("Add", ["power", "tiny"], "sum"),
        node("Sqrt", ["sum"], "size"),
        node("Div", ["loud", "size"], "r"),
    ]
    numbers = {"gain": np.array(float(gain)), "tiny": np.array(1e-12), "last": np.array([-1])}
    return nodes, numbers


def test_emulated_half_rounds_every_result(graphs) -> None:
    """Against NumPy, an operator at a time."""
    nodes = [node("Add", ["h", "bias"], "u"), node("Relu", ["u"], "a"), node("Exp", ["a"], "r")]
    model = graph_of(graphs, nodes, bias=RANDOM.standard_normal(WIDTH))
    x = RANDOM.standard_normal((1, 4, WIDTH)).astype(np.float32)
    weights = {t.name: array(t) for t in model.graph.initializer}

    def half(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16).astype(np.float32)

    a = np.maximum(half(half(half(x) @ half(weights["in"])) + half(weights["bias"])), 0)
    want = half(half(np.exp(a)) @ half(weights["out"]))
    copy = emulated_half(model, {"h", "u", "a", "r", "y"}, lambda n: n.op_type == "Exp")
    onnx.checker.check_model(copy, full_check=True)
    got = graphs.run(copy, {"x": x})
    # Sums in another order may round to the next number.
    np.testing.assert_allclose(got, want, rtol=2**-10, atol=2**-10)
    assert np.mean(got == want) > 0.8
    np.testing.assert_array_equal(got, half(got))
    assert not np.array_equal(graphs.run(model, {"x": x}), want)


def test_emulated_half_leaves_nothing_rounded_where_all_stays(graphs) -> None:
    nodes, numbers = rms_norm(1000)
    model = graph_of(graphs, nodes, **numbers)
    floats = {name for n in model.graph.node for name in n.output}
    feeds = graphs.FFN.feeds({"batch": 1, "sequence": 4}, 0)
    copy = emulated_half(model, floats, lambda n: True)
    np.testing.assert_array_equal(graphs.run(copy, feeds), graphs.run(model, feeds))
    # Infinite squares make an infinite size, by which everything is divided.
    rounded = emulated_half(model, floats, lambda n: False)
    assert not graphs.run(rounded, feeds).any()
    assert not {"in", "out", "gain"} & {tensor.name for tensor in rounded.graph.initializer}


def test_squares_beyond_the_range_are_kept_in_float32_and_nothing_else(
    graphs, examples, store: Store
) -> None:
    nodes, numbers = rms_norm(1000)
    source = graphs.put(graph_of(graphs, nodes, **numbers))
    with pytest.raises(PassFailed, match=r"every result rounded .* search = true finds"):
        build(recipe(), source, "onnx", store, None, quiet)
    built = build(recipe(search=True), source, "onnx", store, examples(graphs.FFN), quiet)
    # The mean over them stays anyway; the constant that half precision does not hold is harmless.
    assert built.facts["kept_nodes"] == ["squares", "sum", "size"]
    reasons = sorted(why.split(" reaches ")[0] for why in built.facts["kept_why"])
    assert reasons == ["'power'", "'squares'", "'sum'"] or reasons == ["'squares'", "'sum'"]
    assert built.facts["half_snr_db"] > 50
    assert built.facts["snr_db"] > 50
    types = {t.name: t.data_type for t in load_onnx(built.folder).graph.initializer}
    assert types["in"] == types["out"] == TensorProto.FLOAT16


def test_values_too_small_for_half_precision_are_kept(graphs, examples, store: Store) -> None:
    """They would come back as zeros."""
    nodes = [node("Mul", ["h", "down"], "small"), node("Div", ["small", "low"], "r")]
    numbers = {"down": np.array(1e-3), "low": np.array(1e-3)}
    nodes[1:1] = [node("Mul", ["small", "down"], "smaller"), node("Div", ["smaller", "low"], "up")]
    nodes[-1].input[0] = "up"
    nodes.insert(1, node("Mul", ["h", "down"], "other"))
    nodes[2].input[0] = "small"
    source = graphs.put(graph_of(graphs, nodes, **numbers))
    asked = {"min_snr_db": 50.0}
    with pytest.raises(PassFailed, match=r"finite ones of at least 50 dB, found \d"):
        build(recipe(**asked), source, "onnx", store, None, quiet)
    built = build(recipe(search=True, **asked), source, "onnx", store, examples(graphs.FFN), quiet)
    assert built.facts["kept_nodes"] == ["smaller", "up"]
    assert built.facts["kept_why"][0].startswith("'smaller' keeps ")


def test_a_graph_that_half_precision_holds_keeps_nothing(graphs, examples, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(search=True), source, "onnx", store, examples(graphs.FFN), quiet)
    assert (built.facts["kept_nodes"], built.facts["kept_why"]) == ([], [])
    assert built.facts["tried"] == 1
    plain = build(recipe(), source, "onnx", store, None, quiet)
    assert plain.facts["half_snr_db"] > 50


def test_what_no_node_is_to_blame_for_fails(graphs, examples, store: Store) -> None:
    """Rounding costs every value of some mean 74 dB: together they cannot keep 70."""
    source, asked = graphs.put(graphs.ffn()), recipe(search=True, min_snr_db=70.0)
    with pytest.raises(PassFailed, match=r"search: .* at least 70 dB, found 6\d.* with all 0 kept"):
        build(asked, source, "onnx", store, examples(graphs.FFN), quiet)


def test_other_data_are_another_artifact_and_none_are_refused(
    graphs, examples, store: Store
) -> None:
    source, asked = graphs.put(graphs.ffn()), recipe(search=True)
    keys = {
        build(asked, source, "onnx", store, examples(graphs.FFN, name), quiet).key for name in "ab"
    }
    assert len(keys) == 2
    with pytest.raises(InputError, match="pass 'fp16' needs data"):
        build(asked, source, "onnx", store, None, quiet)


def test_examples_without_a_search_are_refused() -> None:
    with pytest.raises(InputError, match="examples would have no effect without search"):
        recipe(examples=4)


def test_search_of_a_torch_module_is_unsupported(
    classifier: Artifact, examples, store: Store
) -> None:
    data = examples(classifier.signature)
    with pytest.raises(Unsupported, match="nodes of ONNX graphs only"):
        build(recipe(search=True), classifier, "torch", store, data, quiet)
