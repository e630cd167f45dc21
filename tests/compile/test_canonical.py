from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.canonical import canonicalise
from compile.graph import array, count_ops, initializers, nodes_of, subgraphs

RANDOM = np.random.default_rng(0)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list],
    outputs: dict[str, list],
    tensors: dict[str, np.ndarray],
) -> onnx.ModelProto:
    def values(shapes: dict[str, list]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    weights = [numpy_helper.from_array(a, n) for n, a in tensors.items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", values(inputs), values(outputs), weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("trans_a", "trans_b", "fixed"), list(itertools.product((0, 1), (0, 1), (True, False)))
)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, -2.0), (3.0, 0.0)])
def test_gemm_becomes_matmul_and_add_with_the_same_values(
    trans_a: int, trans_b: int, fixed: bool, alpha: float, beta: float
) -> None:
    a, b, c = floats(3, 4), floats(4, 5), floats(5)
    want = alpha * (a.astype(np.float64) @ b) + beta * c
    a, b = (a.T if trans_a else a), (b.T if trans_b else b)
    feeds = {"a": np.ascontiguousarray(a)}
    weights = {"b": np.ascontiguousarray(b), "c": c}
    if not fixed:
        feeds, weights = feeds | weights, {}
    node = helper.make_node(
        "Gemm", ["a", "b", "c"], ["y"], "g", transA=trans_a, transB=trans_b, alpha=alpha, beta=beta
    )
    model = model_of([node], {n: list(f.shape) for n, f in feeds.items()}, {"y": [3, 5]}, weights)
    done = canonicalise(model)
    assert done["gemm_split"] == 1
    read = {value.name: feeds[value.name] for value in model.graph.input}
    np.testing.assert_allclose(run(model, read)[0], want, atol=1e-5)
    ops = count_ops(model)
    assert "Gemm" not in ops
    assert ops["MatMul"] == 1
    if fixed:
        weight = initializers(model)[nodes_of(model, "MatMul")[0].input[1]]
        assert list(weight.dims) == [4, 5]
        assert ops.get("Transpose", 0) == trans_a


def test_gemm_without_bias_is_a_matmul_alone() -> None:
    model = model_of(
        [helper.make_node("Gemm", ["a", "b"], ["y"])],
        {"a": [2, 3]},
        {"y": [2, 4]},
        {"b": floats(3, 4)},
    )
    canonicalise(model)
    assert count_ops(model) == {"MatMul": 1}


def test_a_tied_weight_is_unfolded_and_its_bytes_are_recorded() -> None:
    table = floats(7, 4)
    nodes = [
        helper.make_node("Cast", ["i"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Transpose", ["table"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "head"], ["y"]),
    ]
    model = model_of(nodes, {"i": [3]}, {"y": [3, 7]}, {"table": table})
    done = canonicalise(model)
    assert done["constants_folded"] == 1
    assert done["tied_bytes"] == table.nbytes
    ids = np.array([0, 5, 2], np.float32)
    np.testing.assert_allclose(run(model, {"i": ids})[0], table[[0, 5, 2]] @ table.T, atol=1e-5)
    assert "Transpose" not in count_ops(model)


def test_identities_go_wherever_they_stand_and_outputs_keep_their_names() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["x1"]),
        helper.make_node("Identity", ["x1"], ["x2"]),
        helper.make_node("Neg", ["x2"], ["n"]),
        helper.make_node("Identity", ["n"], ["n1"]),
        helper.make_node("Identity", ["n1"], ["y"]),
        helper.make_node("Abs", ["n1"], ["a"]),
        helper.make_node("Identity", ["a"], ["first"]),
        helper.make_node("Identity", ["a"], ["second"]),
        helper.make_node("Identity", ["x"], ["through"]),
    ]
    outputs = {name: [2] for name in ("y", "first", "second", "through")}
    model = model_of(nodes, {"x": [2]}, outputs, {})
    done = canonicalise(model)
    x = np.array([1, -2], np.float32)
    got = run(model, {"x": x})
    for have, want in zip(got, (-x, abs(x), abs(x), x), strict=True):
        assert np.array_equal(have, want)
    # One copy of an output and one of an input cannot be spared.
    assert count_ops(model) == {"Identity": 2, "Neg": 1, "Abs": 1}
    assert done["identity_removed"] == 5


def test_what_nothing_reads_is_removed_and_nodes_get_names_of_their_own() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["y"], "same"),
        helper.make_node("Abs", ["x"], ["dead"], "same"),
        helper.make_node("Exp", ["dead"], ["deader"], "same"),
        helper.make_node("Sqrt", ["y"], ["z"], "same"),
    ]
    model = model_of(nodes, {"x": [2]}, {"z": [2], "y": [2]}, {"unused": floats(3)})
    done = canonicalise(model)
    assert (done["nodes_removed"], done["initializers_removed"]) == (2, 1)
    assert [node.name for node in model.graph.node] == ["same", "same_1"]


def test_constants_become_initializers_and_weights_stop_being_inputs() -> None:
    weight = floats(2, 3)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node("Constant", [], ["s"], value_float=2.0),
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Mul", ["p", "s"], ["q"]),
        helper.make_node("Add", ["q", "b"], ["y"]),
    ]
    bias = floats(3)
    model = model_of(nodes, {"x": [1, 2], "b": [3]}, {"y": [1, 3]}, {"b": bias})
    done = canonicalise(model)
    assert done["constants_lifted"] == 2
    assert [value.name for value in model.graph.input] == ["x"]
    x = floats(1, 2)
    np.testing.assert_allclose(run(model, {"x": x})[0], 2 * (x @ weight) + bias, atol=1e-6)


def test_values_read_inside_branches_survive() -> None:
    branch = helper.make_graph(
        [helper.make_node("Add", ["copy", "a"], ["then"])],
        "then",
        [],
        [helper.make_tensor_value_info("then", TensorProto.FLOAT, [2])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["negative"], ["else"])],
        "else",
        [],
        [helper.make_tensor_value_info("else", TensorProto.FLOAT, [2])],
    )
    nodes = [
        helper.make_node("Identity", ["x"], ["copy"]),
        helper.make_node("Neg", ["x"], ["negative"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
    ]
    a = floats(2)
    model = model_of(nodes, {"x": [2]}, {"y": [2]}, {"a": a})
    canonicalise(model)
    assert np.array_equal(run(model, {"x": np.ones(2, np.float32)})[0], 1 + a)
    assert np.array_equal(run(model, {"x": np.array([-1, 0], np.float32)})[0], [1, 0])


def test_half_precision_gemm_keeps_its_type() -> None:
    weight = floats(4, 3).astype(np.float16)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gemm", ["a", "b", "c"], ["y"], transB=1, alpha=0.5, beta=2.0)],
            "g",
            [helper.make_tensor_value_info("a", TensorProto.FLOAT16, ["n", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 4])],
            [
                numpy_helper.from_array(weight, "b"),
                numpy_helper.from_array(np.ones(4, np.float16), "c"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    canonicalise(model)
    x = floats(2, 3).astype(np.float16)
    (got,) = run(model, {"a": x})
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, 0.5 * x.astype(float) @ weight.T.astype(float) + 2, atol=5e-3)


def test_a_mask_that_is_broadcast_over_the_queries_runs_at_every_length() -> None:
    heads, size = 2, 4
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Unsqueeze", ["keep", "places"], ["mask"]),
                helper.make_node("Attention", ["x", "x", "x", "mask"], ["y"], "attend"),
            ],
            "g",
            [
                helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", heads, "s", size]),
                helper.make_tensor_value_info("keep", TensorProto.BOOL, ["b", "s"]),
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", heads, "s", size])],
            [numpy_helper.from_array(np.array([1, 2]), "places")],
        ),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )
    assert canonicalise(model)["masks_expanded"] == 1
    for length in (1, 2, 7):
        x, keep = floats(2, heads, length, size), np.ones((2, length), bool)
        keep[1, length // 2 + 1 :] = False
        scores = x.astype(np.float64) @ x.transpose(0, 1, 3, 2) / np.sqrt(size)
        scores = np.where(keep[:, None, None, :], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        want = weights / weights.sum(-1, keepdims=True) @ x
        np.testing.assert_allclose(run(model, {"x": x, "keep": keep})[0], want, atol=1e-5)
    assert canonicalise(model)["masks_expanded"] == 0


def weights_of(model: onnx.ModelProto) -> dict[str, tuple]:
    return {t.name: (t.data_type, tuple(t.dims)) for t in model.graph.initializer}


def test_a_weight_behind_a_chain_replaces_its_source() -> None:
    """Half precision, flat, turned round and with an axis too many."""
    weight = floats(3, 4).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["flat"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["single", "shape"], ["w3"]),
        helper.make_node("Squeeze", ["w3", "axis"], ["w2"]),
        helper.make_node("Identity", ["w2"], ["same"]),
        helper.make_node("Transpose", ["same"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    tensors = {"flat": weight.ravel(), "shape": np.array([1, 3, -1]), "axis": np.array([0])}
    model = model_of(nodes, {"x": [2, 4]}, {"y": [2, 3]}, tensors)
    # The Identity is gone before: it is removed wherever it stands.
    assert canonicalise(model)["constants_folded"] == 4
    (name,) = weights_of(model)
    assert weights_of(model)[name] == (TensorProto.FLOAT, (4, 3))
    assert np.array_equal(array(initializers(model)[name]), weight.T.astype(np.float32))
    x = floats(2, 4)
    np.testing.assert_allclose(run(model, {"x": x})[0], x @ weight.T.astype(np.float32), atol=1e-5)


def test_a_shared_source_stays_and_the_same_fold_is_kept_once() -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["w", "first"], ["one"]),
        helper.make_node("Unsqueeze", ["w", "first"], ["two"]),
        helper.make_node("Unsqueeze", ["w", "last"], ["three"]),
        helper.make_node("Mul", ["x", "one"], ["a"]),
        helper.make_node("Mul", ["a", "two"], ["b"]),
        helper.make_node("Mul", ["b", "three"], ["c"]),
        helper.make_node("Mul", ["c", "w"], ["y"]),
    ]
    w, x = floats(3), floats(3, 3)
    tensors = {"w": w, "first": np.array([0]), "last": np.array([1])}
    model = model_of(nodes, {"x": [3, 3]}, {"y": [3, 3]}, tensors)
    assert canonicalise(model)["constants_folded"] == 3
    assert sorted(shape for _, shape in weights_of(model).values()) == [(1, 3), (3,), (3, 1)]
    np.testing.assert_allclose(run(model, {"x": x})[0], x * w**3 * w[:, None], rtol=1e-5)


def test_what_is_not_known_or_promised_or_kept_small_is_not_folded() -> None:
    nodes = [
        helper.make_node("Cast", ["codes"], ["unpacked"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "unpacked"], ["m"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["w", "shape"], ["alike"]),
        helper.make_node("Add", ["m", "alike"], ["y"]),
        helper.make_node("Transpose", ["w"], ["z"]),
    ]
    tensors = {"codes": np.ones((2, 2), np.int8), "w": floats(2, 2)}
    model = model_of(nodes, {"x": [2, 2]}, {"y": [2, 2], "z": [2, 2]}, tensors)
    assert canonicalise(model)["constants_folded"] == 0
    assert weights_of(model).keys() == {"codes", "w"}


def test_a_folded_constant_is_read_inside_branches() -> None:
    def inner(name: str, node: onnx.NodeProto) -> onnx.GraphProto:
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])
        return helper.make_graph([node], name, [], [info])

    nodes = [
        helper.make_node("Transpose", ["w"], ["turned"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["c"], to=TensorProto.BOOL),
        helper.make_node(
            "If",
            ["c"],
            ["y"],
            then_branch=inner("then", helper.make_node("Add", ["x", "turned"], ["then"])),
            else_branch=inner("else", helper.make_node("Identity", ["turned"], ["else"])),
        ),
    ]
    w = floats(3, 2)
    model = model_of(nodes, {"x": [2, 3]}, {"y": [2, 3]}, {"w": w})
    assert canonicalise(model)["constants_folded"] == 1
    for x, want in ((np.ones((2, 3)), 1 + w.T), (np.zeros((2, 3)), w.T)):
        assert np.array_equal(run(model, {"x": x.astype(np.float32)})[0], want.astype(np.float32))
    names = [node.name for graph in subgraphs(model.graph) for node in graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (TensorProto.FLOAT16, TensorProto.FLOAT),
        (TensorProto.FLOAT, TensorProto.FLOAT16),
        (TensorProto.BFLOAT16, TensorProto.FLOAT),
        (TensorProto.FLOAT, TensorProto.BFLOAT16),
        (TensorProto.DOUBLE, TensorProto.FLOAT),
    ],
)
def test_a_folded_cast_rounds_as_onnx_runtime_does(source: int, target: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(source)
    values = np.concatenate([floats(500) * 10.0**power for power in (-9, -6, -3, 0, 3, 4)])
    nodes = [
        helper.make_node("Cast", ["w"], ["cast"], to=target),
        helper.make_node("Cast", ["cast"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "single"], ["y"]),
    ]
    tensors = {"w": values.astype(np.float64).astype(dtype)}
    model = model_of(nodes, {"x": [1]}, {"y": [3000]}, tensors)
    zero = {"x": np.zeros(1, np.float32)}
    want = run(model, zero)[0]
    assert canonicalise(model)["constants_folded"] == 2
    assert np.array_equal(run(model, zero)[0], want)
