"""Pruning of ONNX graphs, which are masked and not trained."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import erf

from compile.artifact import Store
from compile.errors import Unsupported
from compile.graph import MODEL, array, initializers, load_onnx
from compile.signature import Signature, TensorSpec
from quantize.build import build
from quantize.recipe import recipe_from_table

LAYERS = ("up.weight", "down.weight")


def recipe(*after: dict, **parameters):
    first = {"pass": "prune", "steps": 0, **parameters}
    return recipe_from_table("r", {"passes": [first, *after]}, "test")


def quiet(_: str) -> None:
    pass


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """As (out, in)."""
    found = initializers(model)
    return {name: array(found[name]).T for name in LAYERS}


def test_magnitude_needs_no_data_and_touches_nothing_else(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(), source, "onnx", store, None, quiet)
    before, after = load_onnx(source.folder), load_onnx(built.folder)
    everything = np.concatenate([np.abs(w).ravel() for w in weights(before).values()])
    limit = np.median(everything)
    for name, weight in weights(after).items():
        want = weights(before)[name]
        np.testing.assert_array_equal(weight, np.where(np.abs(want) > limit, want, 0))
    old, new = initializers(before), initializers(after)
    for name in old.keys() - set(LAYERS):
        assert old[name] == new[name]
    assert built.facts["sparsity"] == 0.5
    assert built.facts["layers"] == 2
    assert "storage only" in built.facts["kernels"]
    assert built.facts["weights_share"] > 0.9


def test_wanda_by_the_inputs_that_the_graph_computes(graphs, examples, store: Store) -> None:
    source, data = graphs.put(graphs.ffn()), examples(graphs.FFN)
    asked = recipe(method="wanda", pattern="2:4", examples=16)
    built = build(asked, source, "onnx", store, data, quiet)
    x = np.concatenate([f["x"].reshape(-1, 96) for f in data.calibration(16)]).astype(float)
    up, down = weights(load_onnx(source.folder)).values()
    wide = x @ up.T.astype(float) + array(initializers(load_onnx(source.folder))["up.bias"])
    active = wide * 0.5 * (1 + erf(wide / np.sqrt(2)))
    for name, weight, inputs in (("up.weight", up, x), ("down.weight", down, active)):
        scores = np.abs(weight) * np.linalg.norm(inputs, axis=0)
        groups = scores.reshape(-1, 4)
        kept = (groups >= np.sort(groups, axis=1)[:, 2:3]).reshape(weight.shape)
        got = weights(load_onnx(built.folder))[name]
        np.testing.assert_array_equal(got, weight * kept)
        error = np.linalg.norm(inputs @ (weight - got).T) / np.linalg.norm(inputs @ weight.T)
        told = built.facts["reconstruction_error"][name]
        assert told == pytest.approx(error, abs=2e-4)
    assert built.facts["groups_proven"] == 2 * 96 * 128 // 4


def test_sparsegpt_keeps_most_of_the_layers_outputs(graphs, examples, store: Store) -> None:
    source, data = graphs.put(graphs.ffn()), examples(graphs.FFN)
    errors = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        asked = recipe(method=method, examples=64)
        built = build(asked, source, "onnx", store, data, quiet)
        errors[method] = built.facts["reconstruction_error"]
        assert built.facts["calibration_examples"] == 64
    # Outputs of unlike scales: by row Wanda takes from large ones what one threshold leaves them.
    total = {method: sum(by_layer.values()) for method, by_layer in errors.items()}
    assert total["sparsegpt"] < 0.9 * total["magnitude"] < total["wanda"]


def test_a_weight_of_two_layers_is_pruned_by_the_inputs_of_both(
    graphs, examples, store: Store
) -> None:
    """Its inputs' columns are large in one layer where they are small in the other."""
    random = np.random.default_rng(0)
    scale = np.ones(8, np.float32)
    scale[:4] = 100
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "left"], ["a"], name="scale_a"),
            helper.make_node("Mul", ["x", "right"], ["b"], name="scale_b"),
            helper.make_node("MatMul", ["a", "w"], ["ya"], name="first"),
            helper.make_node("MatMul", ["b", "w"], ["yb"], name="second"),
            helper.make_node("Add", ["ya", "yb"], ["y"], name="sum"),
        ],
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", 6])],
        [
            numpy_helper.from_array(scale, "left"),
            numpy_helper.from_array(scale[::-1] / 100, "right"),
            numpy_helper.from_array(random.standard_normal((8, 6)).astype(np.float32), "w"),
        ],
    )
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", "sequence", 8)),),
        (TensorSpec("y", "float32", ("batch", "sequence", 6)),),
    )
    source, data = graphs.put(graphs.finished(graph), signature), examples(signature)
    asked = recipe(method="wanda", examples=16)
    built = build(asked, source, "onnx", store, data, quiet)
    x = np.concatenate([f["x"].reshape(-1, 8) for f in data.calibration(16)]).astype(float)
    both = np.concatenate([x * scale, x * scale[::-1] / 100])
    weight = array(initializers(load_onnx(source.folder))["w"]).T
    scores = np.abs(weight) * np.linalg.norm(both, axis=0)
    kept = scores >= np.sort(scores, axis=1)[:, 4:5]
    got = array(initializers(load_onnx(built.folder))["w"]).T
    np.testing.assert_array_equal(got, weight * kept)


def test_other_data_are_another_artifact(graphs, examples, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    asked = recipe(method="wanda", examples=16)
    keys = {
        build(asked, source, "onnx", store, examples(graphs.FFN, text), quiet).key
        for text in ("a text", "b text")
    }
    assert len(keys) == 2


def test_a_pruned_graph_can_be_quantized(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe({"pass": "int8"}), source, "onnx", store, None, quiet)
    assert [entry.step for entry in built.lineage] == ["test", "prune", "int8"]
    feeds = graphs.FFN.feeds({"batch": 1, "sequence": 4})
    assert np.isfinite(graphs.run(built.folder / MODEL, feeds)).all()


def test_excluded_layers_stay(graphs, store: Store) -> None:
    source = graphs.put(graphs.ffn())
    built = build(recipe(exclude=["down*"]), source, "onnx", store, None, quiet)
    before, after = weights(load_onnx(source.folder)), weights(load_onnx(built.folder))
    np.testing.assert_array_equal(before["down.weight"], after["down.weight"])
    assert (after["up.weight"] == 0).mean() == 0.5
    assert list(built.facts["sparsity_by_layer"]) == ["up.weight"]


def test_graph_cannot_be_trained_nor_cut(graphs, examples, store: Store) -> None:
    source, data = graphs.put(graphs.ffn()), examples(graphs.FFN)
    for asked in ({"pass": "prune"}, {"pass": "prune_structured"}):
        table = recipe_from_table("r", {"passes": [asked]}, "test")
        with pytest.raises(Unsupported, match="trains a torch module"):
            build(table, source, "onnx", store, data, quiet)
