from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from compile import graph
from compile.errors import InputError

WEIGHT = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)


def linear(weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    rows, columns = weight.shape
    return helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
                helper.make_node("Add", ["y", "b"], ["z"], "sum"),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", columns])],
            [
                numpy_helper.from_array(weight, "w"),
                numpy_helper.from_array(np.ones(columns, np.float32), "b"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("limit", [graph.EXTERNAL_LIMIT, 1])
def test_a_graph_survives_its_folder_with_and_without_external_data(
    tmp_path: Path, limit: int
) -> None:
    model = linear()
    before = model.SerializeToString(deterministic=True)
    path = graph.save_onnx(model, tmp_path, limit=limit)
    assert model.SerializeToString(deterministic=True) == before
    names = {"model.onnx"} if limit > 1 else {"model.onnx", "model.onnx.data"}
    assert {p.name for p in tmp_path.iterdir()} == names
    x = np.random.default_rng(1).standard_normal((2, 40)).astype(np.float32)
    np.testing.assert_allclose(run(path, x), x @ WEIGHT + 1, atol=1e-5)
    again = graph.load_onnx(tmp_path)
    assert np.array_equal(graph.array(graph.initializers(again)["w"]), WEIGHT)
    # What was loaded can be written to another place, by itself.
    other = tmp_path / "other"
    other.mkdir()
    graph.save_onnx(again, other, limit=limit)
    np.testing.assert_allclose(run(other / "model.onnx", x), x @ WEIGHT + 1, atol=1e-5)


def test_small_tensors_stay_in_the_model_where_shape_inference_reads_them(tmp_path: Path) -> None:
    graph.save_onnx(linear(), tmp_path, limit=1)
    light = onnx.load_model(str(tmp_path / "model.onnx"), load_external_data=False)
    external = [t.name for t in graph.tensors(light) if external_data_helper.uses_external_data(t)]
    assert external == ["w"]


def test_a_model_of_three_gigabytes_needs_external_data() -> None:
    # Only its shape is claimed: no such tensor is held.
    model = linear()
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].dims[:] = [30_000, 25_000]
    assert graph.tensor_bytes(model.graph.initializer[0]) == 3_000_000_000
    assert graph.needs_external(model)
    assert not graph.needs_external(linear())
    light = graph.without_data(model, graph.EXTERNAL_TENSOR)
    assert light.ByteSize() < 1000


@pytest.mark.parametrize(
    ("kind", "elements", "size"),
    [
        (TensorProto.FLOAT, 3, 12),
        (TensorProto.FLOAT16, 3, 6),
        (TensorProto.BFLOAT16, 3, 6),
        (TensorProto.INT8, 3, 3),
        (TensorProto.UINT4, 3, 2),
        (TensorProto.INT4, 4, 2),
        (TensorProto.FLOAT8E4M3FN, 5, 5),
        (TensorProto.BOOL, 5, 5),
    ],
)
def test_tensor_bytes_counts_packed_types(kind: int, elements: int, size: int) -> None:
    assert graph.tensor_bytes(TensorProto(data_type=kind, dims=[elements])) == size


def point_outside(folder: Path, location: str) -> Path:
    path = graph.save_onnx(linear(), folder, limit=1)
    model = onnx.load_model(str(path), load_external_data=False)
    entry = model.graph.initializer[0].external_data[0]
    assert entry.key == "location"
    entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "how", ["parent", "absolute", "inside-parent", "windows", "link", "linked-folder"]
)
def test_external_data_outside_of_the_folder_is_refused(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(WEIGHT.nbytes))
    location = {
        "parent": "../secret",
        "absolute": str(secret),
        "inside-parent": "a/../../secret",
        "windows": "..\\secret",
        "link": "link",
        "linked-folder": "up/secret",
    }[how]
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    path = point_outside(folder, location)
    with pytest.raises(InputError, match="outside of the model's folder; refused"):
        graph.load_onnx(path)


@pytest.mark.parametrize("where", ["function", "training"])
def test_data_outside_is_found_wherever_a_tensor_may_be(tmp_path: Path, where: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(WEIGHT.nbytes))
    (tmp_path / "model").mkdir()
    tensor = onnx.numpy_helper.from_array(WEIGHT, "far")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    model = linear()
    if where == "training":
        model.training_info.add().algorithm.initializer.append(tensor)
        model.training_info[0].algorithm.output.append(model.graph.output[0])
    else:
        constant = onnx.helper.make_node("Constant", [], ["v"], value=tensor)
        value = onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, None)
        branch = onnx.helper.make_graph([constant], "branch", [], [value])
        choice = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        model.functions.append(
            onnx.helper.make_function("mine", "F", ["c"], ["y"], [choice], model.opset_import)
        )
    path = tmp_path / "model" / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"'far' keeps its data in '\.\./secret', outside"):
        graph.load_onnx(path)


def test_missing_or_short_external_data_is_told(tmp_path: Path) -> None:
    path = graph.save_onnx(linear(), tmp_path, limit=1)
    data = tmp_path / "model.onnx.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-4])
    with pytest.raises(InputError, match="too short for 'w'"):
        graph.load_onnx(path)
    data.unlink()
    with pytest.raises(InputError, match=r"'model.onnx.data' is missing"):
        graph.load_onnx(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, None])
def test_what_is_not_onnx_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.onnx"
    whole = linear().SerializeToString()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(InputError, match="ONNX"):
        graph.load_onnx(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        graph.load_onnx(tmp_path / "absent.onnx")


def branching() -> onnx.ModelProto:
    """y = x + a if the condition holds, x otherwise; ``a`` is read inside the branch only."""
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "a"], ["then"])],
        "then",
        [],
        [helper.make_tensor_value_info("then", TensorProto.FLOAT, [2])],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["else"])],
        "else",
        [],
        [helper.make_tensor_value_info("else", TensorProto.FLOAT, [2])],
    )
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("If", ["c"], ["y"], "if", then_branch=branch, else_branch=other)],
            "g",
            [
                helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            ],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
            [numpy_helper.from_array(np.array([1, 2], np.float32), "a")],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )


def test_queries_see_into_branches() -> None:
    model = branching()
    readers = graph.consumers(model)
    assert [n.name for n in readers["a"]] == [n.name for n in readers["x"]] == ["if"]
    assert graph.count_ops(model) == {"If": 1, "Add": 1, "Neg": 1}
    assert graph.producers(model)["y"].name == "if"
    assert len(list(graph.subgraphs(model.graph))) == 3


def test_shapes_are_inferred_whatever_the_size_of_the_weights() -> None:
    model = linear()
    graph.infer_shapes(model)
    assert graph.shapes(model)["y"] == ("batch", 30)
    assert graph.shapes(model)["w"] == (40, 30)
    assert model.graph.initializer[0].HasField("raw_data")
    assert graph.opset(model) == 21
