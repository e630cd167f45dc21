from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers
from onnx import TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Step, Store
from compile.export import export_onnx
from compile.fuse import fuse
from compile.graph import infer_shapes, load_onnx
from compile.models.config import TransformerConfig
from compile.models.model import save_model, transformer_model
from compile.models.resolve import resolve
from compile.models.source import source_artifact
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


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_a_norm_fused_with_its_residual_takes_the_scale_and_the_sum_stays(op: str, graphs) -> None:
    """What the bias adds before the norm, and the sum that is handed on, are not scaled."""
    names = ["gamma", "bias"] if "Simplified" in op else ["gamma", "beta", "bias"]
    fused = helper.make_node(
        op, ["x", "x", *names], ["n", "", "", "sum"], domain="com.microsoft", epsilon=1e-5
    )
    nodes = [fused, node("MatMul", ["n", "a"], "p"), node("Add", ["p", "sum"], "y")]
    constants = [constant(name, WIDTH) for name in names]
    model = model_of(nodes, [*constants, constant("a", WIDTH, WIDTH)], WIDTH)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    (group,) = groups(model, linear_layers(model).layers)
    assert [[home.node.input[i] for i in home.constants] for home in group.homes] == [names[:-1]]
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_spelled_out_takes_the_scale_into_gain_and_bias(bias: bool, graphs) -> None:
    nodes = [
        node("Mul", ["x", "x"], "squares"),
        node("ReduceMean", ["squares", "last"], "power"),
        node("Sqrt", ["power"], "size"),
        node("Div", ["x", "size"], "normed"),
        node("Mul", ["gamma", "normed"], "gained"),
        *([node("Add", ["gained", "beta"], "n")] if bias else []),
        node("MatMul", ["n" if bias else "gained", "a"], "y"),
    ]
    gain = numpy_helper.from_array(RANDOM.standard_normal((1, WIDTH)).astype(np.float32), "gamma")
    constants = [gain, constant("beta", WIDTH), constant("a", WIDTH, WIDTH)]
    constants.append(numpy_helper.from_array(np.array([-1]), "last"))
    model = model_of(nodes, constants, WIDTH)
    (group,) = groups(model, linear_layers(model).layers)
    assert [home.node.op_type for home in group.homes] == (["Add", "Mul"] if bias else ["Mul"])
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-5)


def test_a_residual_between_is_never_scaled(graphs) -> None:
    """The sum of two layers' results would need both to be scaled, and others read one of them."""
    nodes = [
        node("MatMul", ["x", "a"], "p"),
        node("MatMul", ["x", "b"], "q"),
        node("Add", ["p", "q"], "r"),
        node("MatMul", ["r", "c"], "y"),
    ]
    model = model_of(nodes, [constant(name, WIDTH, WIDTH) for name in "abc"], WIDTH)
    assert all(group.homes == () for group in groups(model, linear_layers(model).layers))
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


HEADS = 4


def attention(form: str, kv_heads: int = HEADS) -> onnx.ModelProto:
    """Self-attention over the batch's rows, with query, key, value and output projections."""
    size = WIDTH // HEADS
    nodes, split = [node("Reshape", ["x", "as_batch"], "rows")], {}
    for name in "qkv":
        nodes.append(node("MatMul", ["rows", f"w{name}"], f"{name}_mm"))
        nodes.append(node("Add", [f"{name}_mm", f"b{name}"], name))
        if form != "three axes":
            heads = "heads" if name == "q" else "kv_heads"
            nodes.append(node("Reshape", [name, heads], f"{name}_split"))
            nodes.append(node("Transpose", [f"{name}_split"], f"{name}4", perm=[0, 2, 1, 3]))
            split[name] = f"{name}4"
    if form == "three axes":
        counts = {"q_num_heads": HEADS, "kv_num_heads": kv_heads}
        nodes.append(node("Attention", ["q", "k", "v"], "o", **counts))
    else:
        if form == "spelled out":
            nodes.append(node("Transpose", ["k_split"], "kT", perm=[0, 2, 3, 1]))
            nodes.append(node("MatMul", ["q4", "kT"], "scores"))
            nodes.append(node("Softmax", ["scores"], "shares", axis=-1))
            nodes.append(node("MatMul", ["shares", "v4"], "mixed"))
            nodes.remove(next(n for n in nodes if n.name == "k4"))
        else:
            cache = ["", "past_k", "past_v"] if form == "cached" else []
            results = ["mixed", "present_k", "present_v"] if cache else ["mixed"]
            inputs = [*split.values(), *cache]
            nodes.append(helper.make_node("Attention", inputs, results, name="mixed"))
        nodes.append(node("Transpose", ["mixed"], "back", perm=[0, 2, 1, 3]))
        nodes.append(node("Reshape", ["back", "joined"], "o"))
    nodes += [node("MatMul", ["o", "wo"], "y3"), node("Reshape", ["y3", "flat"], "y")]
    kv = kv_heads * size
    sizes = {"as_batch": [1, -1, WIDTH], "heads": [0, 0, HEADS, size], "flat": [-1, WIDTH]}
    sizes |= {"kv_heads": [0, 0, kv_heads, size], "joined": [0, 0, WIDTH]}
    constants = [
        *(constant(f"w{n}", WIDTH, WIDTH if n in "qo" else kv) for n in "qkvo"),
        *(constant(f"b{n}", WIDTH if n == "q" else kv) for n in "qkv"),
        *(numpy_helper.from_array(np.array(dims), name) for name, dims in sizes.items()),
    ]
    if form == "cached":
        empty = np.zeros((1, kv_heads, 0, size), np.float32)
        constants += [numpy_helper.from_array(empty, name) for name in ("past_k", "past_v")]
    model = model_of(nodes, constants, WIDTH)
    infer_shapes(model)
    return model


@pytest.mark.parametrize("form", ["four axes", "three axes", "spelled out"])
def test_the_projection_of_the_values_takes_the_scale_of_the_one_behind_attention(
    form: str, graphs
) -> None:
    model = attention(form)
    found = {group.input: group for group in groups(model, linear_layers(model).layers)}
    assert [home.node.name for home in found["o"].homes] == ["v", "v_mm"]
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


@pytest.mark.parametrize(
    ("form", "kv_heads"),
    [("four axes", 2), ("three axes", 2), ("cached", HEADS)],
)
def test_values_that_query_heads_share_or_that_a_cache_holds_are_not_scaled(
    form: str, kv_heads: int, graphs
) -> None:
    model = attention(form, kv_heads)
    found = {group.input: group for group in groups(model, linear_layers(model).layers)}
    assert found["o"].homes == ()
    before, after = scaled(model, graphs)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def exported(request, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Exported once for all tests of this file."""
    kind = request.param
    settings: dict = {"kind": kind, "kv_heads": 4, "segments": 2, "classes": 4}
    if kind == "decoder":
        settings = {"kind": kind, "kv_heads": 2, "position": "rotary", "head": "causal-lm"}
        settings |= {"norm": "rmsnorm", "norm_first": True, "activation": "swiglu"}
    config = TransformerConfig(
        vocabulary=50, max_sequence=32, width=32, layers=2, ffn=48, heads=4, **settings
    )
    store = Store(tmp_path_factory.mktemp("store"))
    source = store.derive(
        Step("test-torch", 1, {"kind": kind}),
        None,
        lambda folder: save_model(transformer_model("tiny", config), folder),
    )
    return export_onnx(source, store)


@pytest.mark.parametrize("fused", [False, True])
def test_exported_models_compute_the_same(
    exported: Artifact, fused: bool, graphs, store: Store
) -> None:
    decoder = any("past" in spec.shape for spec in exported.signature.inputs)
    model = load_onnx((fuse(exported, store) if fused else exported).folder)
    found = groups(model, linear_layers(model).layers)
    # A decoder's: before the attention, before the feed-forward and, behind the gate, its down
    # projection, of both layers, and the head. An encoder's residuals read its norms: the
    # projection behind the attention, of both layers, of the first one where ONNX knows no
    # shapes behind a fused norm.
    assert sum(bool(group.homes) for group in found) == (7 if decoder else 2 - fused)
    feeds = [feeds for _, feeds in parity_feeds(exported.signature)][:3]
    before = [graphs.run(model, each) for each in feeds]
    absorb(model, random_scales(model, 1))
    onnx.checker.check_model(model)
    for each, expected in zip(feeds, before, strict=True):
        np.testing.assert_allclose(graphs.run(model, each), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_models_of_transformers_compute_the_same(
    kind: str, graphs, store: Store, tmp_path: Path
) -> None:
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 40}
    if kind == "bert":
        config = transformers.BertConfig(num_labels=3, **sizes)
        module = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.LlamaConfig(num_key_value_heads=2, **sizes)
        module = transformers.LlamaForCausalLM(config)
    module.save_pretrained(tmp_path / "saved")
    named = resolve(str(tmp_path / "saved"), base=tmp_path, task=None)
    made = export_onnx(source_artifact(named, store), store)
    model = load_onnx(made.folder)
    found = groups(model, linear_layers(model).layers)
    homes = {g.layers[0].node.name: [h.node.op_type for h in g.homes] for g in found if g.homes}
    layer = "bert.encoder.layer.0" if kind == "bert" else "model.layers.0"
    assert (
        homes
        == {
            "bert": {f"{layer}.attention.output.dense": ["Add", "MatMul"]},
            "llama": {
                f"{layer}.self_attn.q_proj": ["RMSNormalization"],
                f"{layer}.mlp.gate_proj": ["RMSNormalization"],
                f"{layer}.mlp.down_proj": ["MatMul"],
                "lm_head": ["RMSNormalization"],
            },
        }[kind]
    )
    feeds = [feeds for _, feeds in parity_feeds(made.signature)][:3]
    before = [graphs.run(model, each) for each in feeds]
    absorb(model, random_scales(model, 1))
    for each, expected in zip(feeds, before, strict=True):
        np.testing.assert_allclose(graphs.run(model, each), expected, rtol=1e-3, atol=1e-4)
