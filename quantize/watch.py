"""A stored graph opened so that values inside of it can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import helper

from compile.graph import MODEL


def watching_session(folder: Path, values: Sequence[str]) -> ort.InferenceSession:
    """The graph in ``folder`` with ``values`` among its outputs, on the CPU.

    The graph is not fused, since fusions swallow values, and large tensors are read from where
    they lie, not copied.
    """
    graph = onnx.load(folder / MODEL, load_external_data=False)
    present = {output.name for output in graph.graph.output}
    graph.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in values if name not in present
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    return ort.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def float_values(folder: Path) -> set[str]:
    """Names of the float32 values that the nodes of the graph in ``folder`` compute.

    ONNX's own inference ends at the first operator of ONNX Runtime's, which only that knows.
    """
    graph = onnx.load(folder / MODEL, load_external_data=False).graph
    names = [name for node in graph.node for name in node.output if name]
    session = watching_session(folder, names)
    return {output.name for output in session.get_outputs() if output.type == "tensor(float)"}
