"""Products with a constant that are no MatMul are refused by name; what only scales is none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Store
from compile.signature import Signature, TensorSpec
from quantize.audit import PassFailed
from quantize.build import build
from quantize.linear import linear_layers
from quantize.recipe import recipe_from_table

HIDDEN, OUT = 32, 256
RECURRENT = Signature(
    (TensorSpec("x", "float32", ("sequence", "batch", HIDDEN)),),
    (TensorSpec("y", "float32", ("sequence", "batch", OUT)),),
)


def floats(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(7).standard_normal(shape) / np.sqrt(shape[-1])
    return numpy_helper.from_array(values.astype(np.float32), name)


def node(op: str, inputs: list[str], **options) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["y"], name="product", **options)


def bare(nodes: list[onnx.NodeProto], tensors: list[TensorProto]) -> onnx.ModelProto:
    """A graph that is only looked at."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=opsets)


def recurrent(graphs) -> Artifact:
    """x -> LSTM -> MatMul: of 16384 weights, half are the LSTM's."""
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R"], ["each"], name="lstm", hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["each", "axis"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "H"], ["y"], name="head"),
    ]
    ends = [
        helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, list(spec.shape))
        for spec in (*RECURRENT.inputs, *RECURRENT.outputs)
    ]
    tensors = [
        floats("W", 1, 4 * HIDDEN, HIDDEN),
        floats("R", 1, 4 * HIDDEN, HIDDEN),
        floats("H", HIDDEN, OUT),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    graph = helper.make_graph(nodes, "recurrent", ends[:1], ends[1:], tensors)
    return graphs.put(graphs.finished(graph), RECURRENT)


def made(source: Artifact, store: Store, name: str, **parameters) -> Artifact:
    recipe = recipe_from_table("r", {"passes": [{"pass": name, **parameters}]}, "test")
    return build(recipe, source, "onnx", store, None, lambda _: None)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_recurrent_layer_is_refused_by_name(name: str, graphs, store: Store) -> None:
    found = r"found 1 it cannot take, first 'lstm': an LSTM, which has no form .*exclude it by its"
    with pytest.raises(PassFailed, match=found):
        made(recurrent(graphs), store, name)


@pytest.mark.parametrize("pattern", ["lstm", "W", "R"])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_excluded_recurrent_layer_is_counted_as_left_in_float(
    name: str, pattern: str, graphs, store: Store
) -> None:
    facts = made(recurrent(graphs), store, name, exclude=[pattern]).facts
    assert facts["layers_excluded"] == {"lstm": f"excluded by {pattern!r}"}
    assert (facts["layers"], facts["layers_eligible"], facts["float_products"]) == (1, 2, 1)
    assert facts["weights_share"] == 0.5


def test_share_counts_embeddings_and_biases_and_what_was_taken_of_them(graphs, store) -> None:
    ffn = made(graphs.put(graphs.ffn()), store, "int8").facts
    assert ffn["weights_share"] == round(2 * 96 * 128 / (2 * 96 * 128 + 128 + 3 * 96), 4)
    tied = graphs.put(graphs.tied(), graphs.TIED)
    assert made(tied, store, "int8").facts["weights_share"] == 0.5
    assert made(tied, store, "int8", embeddings=True).facts["weights_share"] == 1.0


@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (node("Conv", ["x", "w"]), {"w": (8, 4, 3, 3)}),
        (node("ConvTranspose", ["x", "w"]), {"w": (8, 4, 3, 3)}),
        (node("DeformConv", ["x", "w", "x"]), {"w": (8, 4, 3, 3)}),
        (node("FusedConv", ["x", "w"], domain="com.microsoft"), {"w": (8, 4, 3, 3)}),
        (node("LSTM", ["x", "w", "r"], hidden_size=4), {"w": (1, 16, 4), "r": (1, 16, 4)}),
        (node("GRU", ["x", "w", "r"], hidden_size=4), {"w": (1, 12, 4), "r": (1, 12, 4)}),
        (node("RNN", ["x", "x", "w"], hidden_size=4), {"w": (1, 4, 4)}),
        (node("Einsum", ["x", "w"], equation="bi, io -> bo"), {"w": (4, 8)}),
        (node("Einsum", ["w", "x"], equation="io,bi"), {"w": (4, 8)}),
        (node("Einsum", ["x", "w"], equation="...i,i->..."), {"w": (4,)}),
        (node("Attention", ["x", "w", "x"]), {"w": (1, 2, 4, 8)}),
        (node("Attention", ["x", "w", "b"], domain="com.microsoft"), {"w": (4, 12), "b": (12,)}),
        (node("MoE", ["x", "x", "w", "", "v"], domain="com.microsoft"), {"w": (2, 4, 8)}),
    ],
)
def test_other_products_with_a_constant_are_missed(product, shapes) -> None:
    tensors = [floats(name, *shape) for name, shape in shapes.items()]
    found = linear_layers(bare([product], tensors))
    assert (list(found.missed), found.layers) == (["product"], [])
    assert f" {product.op_type}, which has no form with" in found.missed["product"]
    spared = linear_layers(bare([product], tensors), ["w"])
    assert (list(spared.excluded), spared.missed) == (["product"], {})


@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (node("Einsum", ["x", "w"], equation="i,j->ij"), {"w": (8,)}),
        (node("Einsum", ["x", "w"], equation="bi,i->bi"), {"w": (8,)}),
        (node("Einsum", ["w", "x"], equation="ik,kj->ij"), {"w": (8, 1)}),
        (node("Einsum", ["x", "x"], equation="bi,bj->ij"), {}),
        (node("LSTM", ["x", "x", "x", "b"], hidden_size=4), {"b": (1, 32)}),
        (node("Conv", ["x", "x", "b"]), {"b": (8,)}),
        (node("Attention", ["x", "x", "x", "mask"]), {"mask": (4, 4)}),
        (node("Mul", ["x", "w"]), {"w": (8, 8)}),
    ],
)
def test_scalings_biases_and_products_of_activations_are_none(product, shapes) -> None:
    tensors = [floats(name, *shape) for name, shape in shapes.items()]
    found = linear_layers(bare([product], tensors))
    assert (found.missed, found.layers, found.names) == ({}, [], [])


def test_convolution_inside_of_a_branch_is_missed() -> None:
    def branch(name: str, op: str, inputs: list[str]) -> onnx.GraphProto:
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        inner = helper.make_node(op, inputs, [name], name=f"{name}_{op}")
        return helper.make_graph([inner], name, [], [result])

    choice = node(
        "If",
        ["yes"],
        then_branch=branch("then", "Conv", ["x", "w"]),
        else_branch=branch("else", "Relu", ["x"]),
    )
    model = bare([choice], [floats("w", 8, 4, 3), numpy_helper.from_array(np.array(True), "yes")])
    assert linear_layers(model).missed == {"then_Conv": "inside of If 'product'"}
