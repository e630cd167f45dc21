from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Store
from compile.errors import InputError, Unsupported
from compile.graph import MODEL, count_ops, load_onnx, save_onnx
from compile.models import onnx_file
from compile.models.resolve import resolve
from compile.models.source import source_artifact

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.standard_normal((50, 8)).astype(np.float32)
WEIGHT = RANDOM.standard_normal((3, 8)).astype(np.float32)


def classifier(op: str = "Gemm", domain: str = "") -> onnx.ModelProto:
    """Mean of embeddings, then a Gemm with a transposed weight, its axes named as elsewhere."""
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["e"]),
        helper.make_node("ReduceMean", ["e", "axis"], ["m"], keepdims=0),
        helper.make_node(
            op, ["m", "w"], ["scores"], domain=domain, **({} if domain else {"transB": 1})
        ),
    ]
    weights = {"table": TABLE, "w": WEIGHT, "axis": np.array([1])}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", "L"])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(a, n) for n, a in weights.items()],
        ),
        opset_imports=[
            helper.make_opsetid("", 18),
            *([helper.make_opsetid(domain, 1)] if domain else []),
        ],
        ir_version=9,
    )


def source(folder: Path, reference: str = "m.onnx") -> Artifact:
    return source_artifact(resolve(reference, base=folder), Store(folder / "store"))


def test_a_file_becomes_a_canonical_artifact_with_a_signature(tmp_path: Path) -> None:
    onnx.save(classifier(), tmp_path / "m.onnx")
    artifact = source(tmp_path)
    assert artifact.kind == "onnx"
    (tokens,) = artifact.signature.inputs
    assert (tokens.shape, tokens.dtype, tokens.high) == (("batch", "sequence"), "int64", 50)
    assert artifact.signature.outputs[0].shape == ("batch", 3)
    assert count_ops(load_onnx(artifact.folder)) == {"Gather": 1, "ReduceMean": 1, "MatMul": 1}
    assert max(entry["absolute"] for entry in artifact.facts["parity"]) < 1e-5
    session = onnxruntime.InferenceSession(
        str(artifact.folder / MODEL), providers=["CPUExecutionProvider"]
    )
    feeds = artifact.signature.feeds({"batch": 4, "sequence": 6})
    (got,) = session.run(None, feeds)
    np.testing.assert_allclose(got, TABLE[feeds["tokens"]].mean(1) @ WEIGHT.T, atol=1e-5)


def with_positions(rows: int) -> onnx.ModelProto:
    """The classifier, with a learned position added to each embedding."""
    model = classifier()
    graph = model.graph
    graph.node[0].output[0] = "word"
    added = [
        helper.make_node("Shape", ["tokens"], ["length"], start=1, end=2),
        helper.make_node("Squeeze", ["length"], ["end"]),
        helper.make_node("Range", ["zero", "end", "one"], ["places"]),
        helper.make_node("Gather", ["positions", "places"], ["place"]),
        helper.make_node("Add", ["word", "place"], ["e"]),
    ]
    nodes = [graph.node[0], *added, *graph.node[1:]]
    weights = {"zero": np.array(0), "one": np.array(1), "positions": TABLE[:rows]}
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


@pytest.mark.parametrize("rows", [1, 20, 50])
def test_the_longest_text_is_found_where_the_file_has_few_positions(
    tmp_path: Path, rows: int
) -> None:
    onnx.save(with_positions(rows), tmp_path / "m.onnx")
    assert source(tmp_path).signature.max_sequence == rows


@pytest.mark.parametrize(("rows", "told"), [(64, True), (64, False), (300, True)])
def test_a_decoder_has_as_many_positions_as_its_table(
    gpt2_file: Callable[..., Path], tmp_path: Path, rows: int, told: bool
) -> None:
    path = gpt2_file(rows, told=told)
    signature = source(tmp_path, path.name).signature
    assert signature.axes == {"batch", "sequence", "past", "total"}
    assert signature.max_sequence == rows
    with pytest.raises(InputError, match=f"5001 tokens are more than .* maximum of {rows}"):
        signature.feeds({"batch": 1, "sequence": 1, "past": 5000})


def test_positions_count_on_from_the_cache(gpt2_file: Callable[..., Path], tmp_path: Path) -> None:
    signature = source(tmp_path, gpt2_file(64, told=True).name).signature
    positions = signature.feeds({"batch": 2, "sequence": 3, "past": 5})["position_ids"]
    assert positions.dtype == np.int64
    assert positions.flags.c_contiguous
    np.testing.assert_array_equal(positions, [[5, 6, 7]] * 2)


def test_positions_reach_their_table_through_a_change_of_shape(
    gpt2_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Older exporters write ``position_ids.view(-1, length)``."""
    path = gpt2_file(300, told=True)
    model = onnx.load(path)
    place = next(node for node in model.graph.node if "position_ids" in node.input)
    place.input[1] = "viewed"
    rows = helper.make_node("Reshape", ["position_ids", "like"], ["viewed"])
    model.graph.node.insert(0, rows)
    model.graph.node.insert(0, helper.make_node("Shape", ["input_ids"], ["like"]))
    onnx.save(model, path)
    assert source(tmp_path, path.name).signature.max_sequence == 300


def test_a_file_that_runs_on_no_feeds_is_unsupported_in_one_line(tmp_path: Path) -> None:
    onnx.save(with_positions(0), tmp_path / "m.onnx")
    with pytest.raises(Unsupported, match=r"m\.onnx fails on tokens=\(1, 1\): .*Gather") as caught:
        source(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_decoder_keeps_its_cache(decoder_onnx: Artifact, tmp_path: Path) -> None:
    """The names that other exporters give its axes are tried in ``test_optimum_onnx.py``."""
    given = load_onnx(decoder_onnx.folder)
    save_onnx(given, tmp_path)
    signature = source(tmp_path, "model.onnx").signature
    shapes = {spec.name: spec.shape for spec in decoder_onnx.signature.inputs}
    assert {spec.name: spec.shape for spec in signature.inputs} == shapes
    assert signature.outputs == decoder_onnx.signature.outputs


def test_external_data_is_copied_and_decides_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    big = classifier()
    big.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.tile(TABLE, (9, 1)), "table"))
    save_onnx(big, folder, limit=1)
    first = source(tmp_path, "given/model.onnx")
    data = folder / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    second = source(tmp_path, "given/model.onnx")
    assert first.key != second.key
    data.unlink()
    session = onnxruntime.InferenceSession(
        str(second.folder / MODEL), providers=["CPUExecutionProvider"]
    )
    assert session.run(None, {"tokens": np.zeros((1, 2), np.int64)})[0].shape == (1, 3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_the_torch_exporter_writes_is_read_back(tmp_path: Path) -> None:
    module = torch.nn.Linear(4, 2).eval()
    torch.onnx.export(
        module,
        (torch.ones(2, 4),),
        tmp_path / "m.onnx",
        dynamo=True,
        dynamic_shapes=({0: "rows"},),
        input_names=["x"],
        output_names=["y"],
        verbose=False,
        external_data=True,
    )
    artifact = source(tmp_path)
    assert artifact.signature.inputs[0].shape == ("batch", 4)
    assert artifact.signature.outputs[0].shape == ("batch", 2)


def test_files_that_are_not_valid_onnx_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = classifier().SerializeToString()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InputError, match="cut short"):
        source(tmp_path)
    path.write_text("a text")
    with pytest.raises(InputError, match="not an ONNX file"):
        source(tmp_path)
    broken = classifier()
    broken.graph.node[2].input[0] = "nowhere"
    path.write_bytes(broken.SerializeToString())
    with pytest.raises(InputError, match=r"m\.onnx is not a valid ONNX model: .*nowhere") as caught:
        source(tmp_path)
    assert "\n" not in str(caught.value)


def of_a_later_opset() -> onnx.ModelProto:
    model = classifier("MatMul")
    model.graph.node[2].ClearField("attribute")
    model.opset_import[0].version = 99
    return model


def of_wrong_type() -> onnx.ModelProto:
    model = classifier()
    node = helper.make_node("StringNormalizer", ["m"], ["text"])
    model.graph.node.append(node)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (classifier("Frobnicate", "com.acme"), "com.acme:Frobnicate is not a registered"),
        (of_a_later_opset(), "ONNX Runtime only .*Opset 99 is under development"),
        (of_wrong_type(), "This is an invalid model. Type Error: .*StringNormalizer"),
    ],
    ids=["custom", "opset", "type"],
)
def test_what_onnx_runtime_does_not_open_is_named_in_one_line(
    tmp_path: Path, model: onnx.ModelProto, reason: str
) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=rf"m\.onnx cannot be run .*compared: {reason}") as caught:
        source(tmp_path)
    assert "\n" not in str(caught.value)
    assert "onnxruntime" not in str(caught.value)


def test_an_unknown_standard_operator_is_named(tmp_path: Path) -> None:
    onnx.save(classifier("Frobnicate"), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"not a valid ONNX model: .*Frobnicate"):
        source(tmp_path)


def test_memory_that_runs_out_is_not_the_files_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RuntimeException(Exception):
        """Named as ONNX Runtime's is, which cannot be made here."""

    def full(path: Path) -> None:
        raise Unsupported("no memory") from RuntimeException("bad allocation")

    onnx.save(classifier(), tmp_path / "m.onnx")
    monkeypatch.setattr(onnx_file, "open_session", full)
    with pytest.raises(Unsupported, match="no memory"):
        source(tmp_path)


def test_data_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    big = classifier()
    path = save_onnx(big, folder, limit=1)
    light = onnx.load_model(str(path), load_external_data=False)
    (tmp_path / "secret").write_bytes(bytes(TABLE.nbytes))
    light.graph.initializer[0].external_data[0].value = "../secret"
    path.write_bytes(light.SerializeToString())
    with pytest.raises(InputError, match="outside of the model's folder"):
        source(tmp_path, "given/model.onnx")
