"""Linear layers in every form that another's file has: folded, taken, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Store
from compile.canonical import canonicalise
from compile.models.resolve import resolve
from compile.models.source import source_artifact
from quantize.audit import PassFailed
from quantize.build import build
from quantize.linear import linear_layers
from quantize.recipe import recipe_from_table

WIDTH = 64
RANDOM = np.random.default_rng(4)


def matrix(*shape: int) -> np.ndarray:
    return (RANDOM.standard_normal(shape or (WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)


def node(op: str, inputs: list[str], output: str, **options) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **options)


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model_of(
    nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], **settings
) -> onnx.ModelProto:
    """x (64, 64) -> y of the same shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", WIDTH, WIDTH)],
        [value("y", WIDTH, WIDTH)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, **settings)
    onnx.checker.check_model(model)
    return model


def partial(left: bool) -> onnx.ModelProto:
    """Four layers, each in another form."""
    nodes = [
        node("MatMul", ["x", "canonical"], "a"),
        node("Cast", ["half"], "single", to=TensorProto.FLOAT),
        node("MatMul", ["a", "single"], "b"),
        node("Reshape", ["flat", "shape"], "square"),
        node("MatMul", ["b", "square"], "c" if left else "y"),
    ]
    tensors = {
        "canonical": matrix(),
        "half": matrix().astype(np.float16),
        "flat": matrix(WIDTH * WIDTH),
        "shape": np.array([WIDTH, -1]),
    }
    if left:
        nodes.append(node("MatMul", ["turned", "c"], "y"))
        tensors["turned"] = matrix()
    return model_of(nodes, tensors)


def from_file(model: onnx.ModelProto, folder: Path, store: Store) -> Artifact:
    onnx.save(model, folder / "partial.onnx")
    return source_artifact(resolve("partial.onnx", base=folder), store)


def made(source: Artifact, store: Store, name: str, **parameters) -> Artifact:
    recipe = recipe_from_table("r", {"passes": [{"pass": name, **parameters}]}, "test")
    return build(recipe, source, "onnx", store, None, lambda _: None)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_weights_behind_a_cast_and_a_reshape_are_taken(
    name: str, tmp_path: Path, store: Store
) -> None:
    built = made(from_file(partial(left=False), tmp_path, store), store, name)
    facts = built.facts
    assert (facts["layers"], facts["layers_eligible"], facts["float_products"]) == (3, 3, 0)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_weight_on_the_left_is_refused_by_name_unless_excluded(
    name: str, tmp_path: Path, store: Store
) -> None:
    source = from_file(partial(left=True), tmp_path, store)
    with pytest.raises(PassFailed, match=r"1 it cannot take, first 'y': .*on the left.*exclude"):
        made(source, store, name)
    facts = made(source, store, name, exclude=["turned"]).facts
    assert (facts["layers"], facts["layers_eligible"], facts["float_products"]) == (3, 4, 1)
    assert facts["layers_excluded"] == {"y": "excluded by 'turned'"}


def branch(name: str) -> onnx.GraphProto:
    """One layer whose weight the graph around it holds."""
    return helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], [name], "inner")],
        name,
        [],
        [value(name, WIDTH, WIDTH)],
    )


def conditional() -> list[onnx.NodeProto]:
    return [
        node("ReduceMax", ["x"], "top", keepdims=0),
        node("Cast", ["top"], "choice", to=TensorProto.BOOL),
        node("If", ["choice"], "y", then_branch=branch("then"), else_branch=branch("else")),
    ]


def loop() -> list[onnx.NodeProto]:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Gemm", ["state", "w"], ["next"], "inner"),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            value("state", WIDTH, WIDTH),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), value("next", WIDTH, WIDTH)],
    )
    return [node("Loop", ["turns", "", "x"], "y", body=body)]


@pytest.mark.parametrize(
    ("nodes", "names", "reason"),
    [
        (
            [node("Mul", ["w", "w"], "w2"), node("MatMul", ["x", "w2"], "y")],
            ["y"],
            "its weight is computed from constants by Mul",
        ),
        (
            [node("Cast", ["codes"], "w2", to=TensorProto.FLOAT), node("MatMul", ["x", "w2"], "y")],
            ["y"],
            "its weight is computed from constants by Cast",
        ),
        ([node("Gemm", ["w", "x"], "y")], ["y_matmul"], "its constant is on the left"),
        (conditional(), ["inner", "inner_1"], "inside of If 'y'"),
        (loop(), ["inner"], "inside of Loop 'y'"),
    ],
)
def test_layers_that_no_pass_can_take_are_missed_by_name(
    nodes: list[onnx.NodeProto], names: list[str], reason: str
) -> None:
    tensors = {"w": matrix(), "codes": np.ones((WIDTH, WIDTH), np.int8), "turns": np.array(2)}
    model = model_of(nodes, tensors)
    canonicalise(model)
    found = linear_layers(model)
    assert (found.layers, found.missed) == ([], dict.fromkeys(names, reason))
    excluded = linear_layers(model, ["y*", "inner*"])
    assert (list(excluded.excluded), excluded.missed) == (names, {})


def test_layer_inside_of_a_function_is_missed() -> None:
    body = [helper.make_node("MatMul", ["data", "weight"], ["result"], "inner")]
    opsets = [helper.make_opsetid("", 21)]
    function = helper.make_function("own", "Dense", ["data", "weight"], ["result"], body, opsets)
    call = node("Dense", ["x", "w"], "y", domain="own")
    model = model_of([call], {"w": matrix()}, functions=[function])
    assert linear_layers(model).missed == {"inner": "inside of Dense 'y'"}
    both = node("Dense", ["x", "x"], "y", domain="own")
    assert not linear_layers(model_of([both], {}, functions=[function])).missed


def test_products_of_activations_and_scalings_are_no_layers() -> None:
    """Rotary positions multiply a column of frequencies by a row of positions."""
    nodes = [
        node("MatMul", ["x", "x"], "scores"),
        node("ReduceMean", ["scores", "first"], "row"),
        node("MatMul", ["frequencies", "row"], "y"),
    ]
    model = model_of(nodes, {"frequencies": matrix(WIDTH, 1), "first": np.array([0])})
    found = linear_layers(model)
    assert (found.layers, found.missed) == ([], {})
