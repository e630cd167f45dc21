"""A torch artifact becomes an ONNX artifact: dynamo export, canonical form, proof of parity."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from compile.artifact import Artifact, Made, Step, Store
from compile.canonical import canonicalise
from compile.errors import Unsupported
from compile.graph import consumers, count_ops, initializers, nodes_of, save_onnx, subgraphs
from compile.models.model import Model, load_model
from compile.parity import check_parity, example_sizes, resize
from compile.signature import Feeds

OPSET = 23
"""The first opset with ``Attention``, and the last that ONNX Runtime on the CPU does not expand."""
TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
"""Largest error, relative to an output's largest value (or to 1), by type of the weights."""

_EXPORT_SIZES = {"batch": 2, "sequence": 3, "past": 5}
"""Unlike one another and neither 0 nor 1, so that the exporter ties no axis to a number."""


def export_onnx(
    artifact: Artifact, store: Store, *, opset: int = OPSET, tolerance: float | None = None
) -> Artifact:
    """Export a torch artifact to ONNX, found in the store or made now.

    Batch, sequence and the other named axes of the signature stay dynamic. The graph is brought
    into canonical form and compared with torch on several shapes (``compile.parity``);
    ``tolerance`` is the largest error allowed (``TOLERANCE`` of the weights' type if None). Facts:
    ``opset``, ``nodes`` (by operator), ``canonical`` (what was changed), ``parity`` (by shape).

    Raises Unsupported where torch cannot export the module or ONNX Runtime cannot run the graph,
    naming the operator, and Incorrect where the results differ by more than the tolerance.
    """
    parameters = {"opset": opset, "tolerance": tolerance}
    step = Step("export", 2, parameters, libraries=("torch", "onnx", "onnxscript"))
    return store.derive(
        step,
        artifact,
        lambda folder: _export(load_model(artifact.folder), folder, opset, tolerance),
    )


def _export(model: Model, folder: Path, opset: int, tolerance: float | None) -> Made:
    proto = _trace(model, opset)
    changed = canonicalise(proto)
    _name_as_in_torch(proto)
    _strip_traces(proto)
    _check_axes(model, proto)
    path = save_onnx(proto, folder)
    if tolerance is None:
        dtype = next((p.dtype for p in model.module.parameters()), torch.float32)
        tolerance = TOLERANCE.get(str(dtype).removeprefix("torch."), TOLERANCE["float16"])
    parity = check_parity(
        lambda feeds: run_torch(model, feeds),
        path,
        model.signature,
        tolerance=tolerance,
        examples=model.examples,
    )
    facts = {"opset": opset, "nodes": count_ops(proto), "canonical": changed, "parity": parity}
    return Made("onnx", model.signature, facts)


def run_torch(model: Model, feeds: Feeds) -> list[np.ndarray]:
    """The model's outputs in the order of its signature."""
    inputs = [torch.from_numpy(feeds[spec.name]) for spec in model.signature.inputs]
    with torch.inference_mode():
        return [output.numpy() for output in model.module(*inputs)]


class Positional(nn.Module):
    """One parameter for all inputs, so that their dynamic axes can be listed by position."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.model(*inputs)


def traced_inputs(model: Model) -> tuple[tuple[Tensor, ...], tuple[dict[int, str], ...]]:
    """What a model is traced on: inputs in the signature's order, and the axes of each that stay
    dynamic, by position."""
    signature = model.signature
    if model.examples is None:
        feeds = signature.feeds({**dict.fromkeys(signature.axes, 8), **_EXPORT_SIZES})
    else:
        sizes = example_sizes(signature, model.examples)
        sizes = {name: max(size, 2) for name, size in sizes.items()} | {"batch": 2}
        feeds = {s.name: resize(model.examples[s.name], s, sizes) for s in signature.inputs}
    dynamic = tuple(
        {axis: name for axis, name in enumerate(spec.shape) if isinstance(name, str)}
        for spec in signature.inputs
    )
    return tuple(torch.from_numpy(feeds[spec.name]) for spec in signature.inputs), dynamic


def _trace(model: Model, opset: int) -> onnx.ModelProto:
    signature = model.signature
    inputs, dynamic = traced_inputs(model)
    try:
        with _quiet():
            program = torch.onnx.export(
                Positional(model.module).eval(),
                inputs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=(dynamic,),
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                verbose=False,
            )
            assert program is not None, "the dynamo exporter returns the program"
            return program.model_proto
    except torch.onnx.OnnxExporterError as error:
        raise Unsupported(f"torch cannot export model {model.name!r}: {_reason(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of the exporter's progress, advice and deprecations reaches the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """One line from the chain of causes: the operator's name if it says one, or its root."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if found := re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(link)):
            return f"operator {found[1]} has no ONNX counterpart"
    root = chain[-1]
    line = next((line for line in str(root).splitlines() if line.strip()), "")
    return f"{type(root).__name__}: {line.strip()}"[:400]


def _name_as_in_torch(proto: onnx.ModelProto) -> None:
    """Weights and linear layers take the names of their torch modules.

    ``layers.0.attention.query`` says in every later report what ``node_linear_3`` does not.
    """
    graph = proto.graph
    weights, readers = initializers(proto), consumers(proto)
    rename: dict[str, str] = {}
    for node in nodes_of(proto, "MatMul"):
        weight = node.input[1]
        scopes = {p.key: p.value for p in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
        modules = re.findall(r"'(model\.[^']*)'", scopes or "")
        if modules and weight in weights and len(readers[weight]) == 1:
            name = _torch_name(modules[-1])
            # A module called twice has one name only; its second call keeps the exporter's.
            if f"{name}.weight" not in rename.values():
                node.name, rename[weight] = name, f"{name}.weight"
    for weight in weights:
        name = _torch_name(weight)
        if weight not in rename and name not in weights and name not in rename.values():
            rename[weight] = name
    for tensor in graph.initializer:
        tensor.name = rename.get(tensor.name, tensor.name)
    for inner in subgraphs(graph):
        for node in inner.node:
            for index, value in enumerate(node.input):
                node.input[index] = rename.get(value, value)


def _strip_traces(proto: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces: they hold this machine's paths and are most of the file."""
    for holder in (proto, proto.graph):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    graph = proto.graph
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for inner in subgraphs(graph):
        for node in inner.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")


def _torch_name(name: str) -> str:
    return name.removeprefix("model.").removeprefix("inner.")


def _check_axes(model: Model, proto: onnx.ModelProto) -> None:
    """Dynamic axes are dynamic, and named as the signature names them."""
    graph = proto.graph
    for specs, values in (
        (model.signature.inputs, graph.input),
        (model.signature.outputs, graph.output),
    ):
        for spec, value in zip(specs, values, strict=True):
            for name, axis in zip(spec.shape, value.type.tensor_type.shape.dim, strict=True):
                if isinstance(name, int):
                    continue
                if axis.HasField("dim_value"):
                    raise Unsupported(
                        f"torch cannot export model {model.name!r}: axis {name!r} of "
                        f"{spec.name!r} was fixed at {axis.dim_value}, since the module's code "
                        "depends on its size"
                    )
                axis.dim_param = name
