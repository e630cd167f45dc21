from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Store
from compile.export import export_onnx
from compile.graph import load_onnx
from compile.models.config import TransformerConfig
from compile.models.model import save_model, transformer_model
from compile.parity import parity_feeds
from quantize.absorb import absorb, groups
from quantize.linear import linear_layers

WIDTH, INNER = 24, 40
RANDOM = np.random.default_rng(0)


def constant(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RANDOM.standard_normal(shape).astype(np.float32), name)


def model_of(
    nodes: list[onnx.NodeProto], constants: list[TensorProto], out: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", out])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def norm(op: str = "LayerNormalization") -> list[onnx.NodeProto]:
    bias = ["beta"] if op == "LayerNormalization" else []
    return [node(op, ["x", "gamma", *bias], "n")]


def random_scales(model: onnx.ModelProto, most: float) -> list:
    """Of every group, numbers from e^-most to e^most."""
    found = groups(model, linear_layers(model).layers)
    drawn = (np.exp(RANDOM.uniform(-most, most, g.width)).astype(np.float32) for g in found)
    return list(zip(found, drawn, strict=True))


def scaled(model: onnx.ModelProto, graphs) -> tuple[np.ndarray, ...]:
    """Outputs before and after every group was scaled by numbers from 0.05 to 20."""
    feeds = {"x": RANDOM.standard_normal((5, WIDTH)).astype(np.float32)}
    before = graphs.run(model, feeds)
    absorb(model, random_scales(model, 3))
    onnx.checker.check_model(model, full_check=True)
    return before, graphs.run(model, feeds)


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_a_norm_takes_the_scale_of_all_layers_that_read_it(op: str, graphs) -> None:
    nodes = [*norm(op), node("MatMul", ["n", "a"], "p"), node("MatMul", ["n", "b"], "q")]
    model = model_of(
        [*nodes, node("Add", ["p", "q"], "y")],
        [
            *(constant(name, WIDTH) for name in ("gamma", "beta")),
            *(constant(name, WIDTH, 8) for name in ("a", "b")),
        ],
        8,
    )
    (group,) = groups(model, linear_layers(model).layers)
    assert [home.node.op_type for home in group.homes] == [op]
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-5)
    assert [n.op_type for n in model.graph.node] == [op, "MatMul", "MatMul", "Add"]


def test_a_norm_whose_residual_reads_on_is_left_and_a_mul_is_put_between(graphs) -> None:
    """Post-norm: the sum behind the layers reads the norm too."""
    nodes = [*norm(), node("MatMul", ["n", "a"], "p"), node("Add", ["p", "n"], "y")]
    constants = [constant("gamma", WIDTH), constant("beta", WIDTH), constant("a", WIDTH, WIDTH)]
    model = model_of(nodes, constants, WIDTH)
    (group,) = groups(model, linear_layers(model).layers)
    assert group.homes == ()
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-5)
    assert [n.op_type for n in model.graph.node] == ["LayerNormalization", "Mul", "MatMul", "Add"]


def test_constants_that_others_read_are_copied_not_changed(graphs) -> None:
    """The export keeps equal gains and biases once, for norms and layers alike."""
    nodes = [
        node("LayerNormalization", ["x", "same", "same"], "n"),
        node("MatMul", ["n", "a"], "p"),
        node("Add", ["p", "same"], "r"),
        node("LayerNormalization", ["r", "same", "same"], "m"),
        node("MatMul", ["m", "a"], "y"),
    ]
    model = model_of(nodes, [constant("same", WIDTH), constant("a", WIDTH, WIDTH)], WIDTH)
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    assert not any(n.op_type == "Mul" for n in model.graph.node)


@pytest.mark.parametrize("between", ["nothing", "Relu", "gate", "Gelu", "shared"])
def test_a_layer_takes_the_scale_into_its_columns_where_that_is_linear(
    between: str, graphs
) -> None:
    nodes = [node("MatMul", ["x", "a"], "p"), node("Add", ["p", "bias"], "u")]
    constants = [constant("a", WIDTH, INNER), constant("bias", INNER), constant("b", INNER, WIDTH)]
    inner = {"nothing": "u", "Relu": "r", "gate": "r", "Gelu": "r", "shared": "u"}[between]
    if between in ("Relu", "Gelu"):
        nodes.append(node(between, ["u"], "r"))
    if between == "gate":
        nodes += [node("MatMul", ["x", "g"], "z"), node("Sigmoid", ["z"], "s")]
        nodes.append(node("Mul", ["s", "u"], "r"))
        constants.append(constant("g", WIDTH, INNER))
    nodes.append(node("MatMul", [inner, "b"], "w" if between == "shared" else "y"))
    if between == "shared":
        nodes += [node("ReduceSum", ["u"], "t"), node("Add", ["w", "t"], "y")]
    model = model_of(nodes, constants, WIDTH)
    found = {group.input: group for group in groups(model, linear_layers(model).layers)}
    homes = [home.node.op_type for home in found[inner].homes]
    assert homes == ([] if between in ("Gelu", "shared") else ["Add", "MatMul"])
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


@pytest.fixture(params=["encoder", "decoder"])
def exported(request, store: Store) -> Artifact:
    kind = request.param
    settings = {"segments": 2, "classes": 4} if kind == "encoder" else {}
    if kind == "decoder":
        settings = {
            "position": "rotary",
            "norm": "rmsnorm",
            "norm_first": True,
            "head": "causal-lm",
        }
        settings |= {"activation": "swiglu"}
    heads = {"heads": 4, "kv_heads": 4 if kind == "encoder" else 2}
    config = TransformerConfig(
        kind=kind, vocabulary=50, max_sequence=32, width=32, layers=2, ffn=48, **heads, **settings
    )
    from compile.artifact import Step

    def make(folder: Path):
        return save_model(transformer_model("tiny", config), folder)

    return export_onnx(store.derive(Step("test-torch", 1, {"kind": kind}), None, make), store)


def test_exported_models_compute_the_same(exported: Artifact, graphs) -> None:
    model = load_onnx(exported.folder)
    found = groups(model, linear_layers(model).layers)
    pre_norm = any(n.op_type == "RMSNormalization" for n in model.graph.node)
    # Before the attention and the feed-forward of both layers; the latter's down projection
    # behind its gate.
    assert sum(bool(group.homes) for group in found) == (7 if pre_norm else 0)
    feeds = [feeds for _, feeds in parity_feeds(exported.signature)][:3]
    before = [graphs.run(model, each) for each in feeds]
    absorb(model, random_scales(model, 1))
    onnx.checker.check_model(model)
    for each, expected in zip(feeds, before, strict=True):
        np.testing.assert_allclose(graphs.run(model, each), expected, rtol=1e-3, atol=1e-4)
