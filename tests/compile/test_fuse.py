from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile import fuse as fuse_module
from compile.artifact import Artifact, Made, Step, Store
from compile.errors import Incorrect, InputError
from compile.fuse import fuse
from compile.graph import MODEL, count_ops, load_onnx, save_onnx
from compile.signature import Signature, TensorSpec


def test_extended_fusions_are_kept_in_the_file_and_compute_the_same(
    encoder_onnx: Artifact, store: Store
) -> None:
    fused = fuse(encoder_onnx, store, "extended")
    after = fused.facts["nodes_after"]
    assert after == count_ops(load_onnx(fused.folder))
    assert fused.facts["nodes_before"] == encoder_onnx.facts["nodes"]
    assert after["SkipLayerNormalization"] >= 2
    assert after["BiasGelu"] == 2
    assert "Gemm" not in after
    feeds = encoder_onnx.signature.feeds({"batch": 2, "sequence": 11}, seed=4)
    outputs = []
    for artifact in (encoder_onnx, fused):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            str(artifact.folder / MODEL), options, providers=["CPUExecutionProvider"]
        )
        outputs.append(session.run(None, feeds)[0])
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5)


def test_levels_have_keys_of_their_own_and_all_depends_on_the_processor(
    decoder_onnx: Artifact, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    extended, everything = (fuse(decoder_onnx, store, level) for level in ("extended", "all"))
    assert extended.key != everything.key
    monkeypatch.setattr(fuse_module, "_processor", lambda: "another")
    assert fuse(decoder_onnx, store, "extended").key == extended.key
    assert fuse(decoder_onnx, store, "all").key != everything.key


def plain(store: Store, weight: np.ndarray) -> Artifact:
    """One MatMul: nothing in it can be fused."""
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 3)),)
    )
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"], "m")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
            [numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )

    def make(folder: object) -> Made:
        save_onnx(model, folder)
        return Made("onnx", signature)

    return store.derive(Step("plain", 1), None, make)


def test_fusing_nothing_is_an_error(store: Store) -> None:
    artifact = plain(store, np.ones((4, 3), np.float32))
    with pytest.raises(RuntimeError, match="found nothing to fuse in 1 nodes") as caught:
        fuse(artifact, store, "extended")
    assert not isinstance(caught.value, Incorrect)


def test_fuse_refuses_a_torch_artifact_and_an_unknown_level(
    encoder: Artifact, encoder_onnx: Artifact, store: Store
) -> None:
    with pytest.raises(InputError, match="put export before it"):
        fuse(encoder, store)
    with pytest.raises(InputError, match="no level 'most'; it has basic, extended, all"):
        fuse(encoder_onnx, store, "most")


def test_a_fusion_that_changes_the_result_is_incorrect(
    encoder_onnx: Artifact, store: Store
) -> None:
    with pytest.raises(Incorrect, match="tolerance 1e-14"):
        fuse(encoder_onnx, store, "extended", tolerance=1e-14)
