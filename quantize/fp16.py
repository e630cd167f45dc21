"""FP16 of an ONNX graph: weights and arithmetic in half precision, inputs and outputs in float32.

ONNX Runtime's own converter does the rewriting. What it does silently is made visible here:
numbers beyond half precision's range are found before it clamps them, its casts are put in
topological order, and operators that overflow on ordinary activations stay in float32. Whether
other values leave half precision's range is found by emulating it, since a CPU does not show that
(``quantize/emulated_half.py``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnxruntime.transformers import float16

from compile.artifact import Artifact, Made
from compile.data import DataSource
from compile.graph import array, load_onnx, save_onnx, subgraphs, tensor_bytes
from compile.parity import parity_feeds
from compile.signature import Feeds
from quantize.audit import PassFailed, audit_onnx, check_exclude, check_smaller, folder_bytes
from quantize.exclude import matching
from quantize.fp16_search import HalfGraph, search_kept
from quantize.passes import Fp16
from quantize.watch import float_values

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
OVERFLOWING = ("Exp", "Pow", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softplus")
"""Operators whose results leave half precision's range on ordinary inputs: squares and sums over
the hidden axis, as a normalisation spelled out in small operators computes them."""
KEPT = frozenset({*float16.DEFAULT_OP_BLOCK_LIST, *OVERFLOWING})
"""Operators that stay in float32; the converter's own list is of those without half kernels."""


def make_fp16(
    source: Artifact,
    asked: Fp16,
    folder: Path,
    data: DataSource | None,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on an ONNX artifact and audit the result.

    Facts: ``converted`` and ``kept`` tensors, ``clamped`` scalars, ``underflowed`` weights,
    ``kept_nodes``, bytes, ``weights_share``, signal-to-noise ratio as it runs here (``snr_db``)
    and with every result rounded to half precision (``half_snr_db``); of a search ``kept_why``
    and ``tried``.
    """
    model = load_onnx(source.folder)
    weights = {tensor.name for tensor in model.graph.initializer}
    called = [[n.name, *(i for i in n.input if i in weights)] for n in model.graph.node]
    check_exclude(asked.name, asked.exclude, [name for names in called for name in names])
    blocked = [names[0] for names in called if matching(asked.exclude, names)]
    floats = float_values(source.folder)
    graph = HalfGraph(
        source.folder,
        floats,
        _examples(source, asked, data),
        lambda node: node.op_type in KEPT or node.name in blocked,
    )
    searched: dict[str, Any] = {}
    if asked.search:
        found, searched = search_kept(asked.name, graph, asked.min_snr_db, progress)
        blocked += [n.name for n in model.graph.node if n.name in found and n.name not in blocked]
    facts = check_range(asked.name, model, set(blocked)) | searched
    facts |= check_emulated(asked, graph.snr_db(frozenset(blocked)))
    before = _float_tensors(model)
    wanted = set(_read_in_half(model.graph, set(blocked)))
    size = sum(tensor_bytes(t) for t in _weights(model, TensorProto.FLOAT) if t.name in wanted)
    if not size:
        raise PassFailed(asked.name, "nodes matched", "at least one float32 tensor", "none")
    # Counted now, since the converter works in place.
    everything = _float_bytes(model)
    facts["weights_share"] = round(size / everything, 4)
    converted = convert(model, blocked, floats)
    after = _float_tensors(converted)
    save_onnx(converted, folder)
    files = (source.bytes, folder_bytes(folder))
    halved = size - everything + _float_bytes(converted)
    facts |= check_smaller(asked.name, (size, halved), files, 0.5)
    facts |= {"converted": len(before) - len(after), "kept": len(after), "kept_nodes": blocked}
    examples = (feeds for _, feeds in parity_feeds(source.signature))
    facts |= audit_onnx(asked.name, source, folder, examples, asked.min_snr_db)
    return Made("onnx", source.signature, facts)


def check_emulated(asked: Fp16, snr_db: float) -> dict[str, Any]:
    """With every result in half precision the outputs are finite and within the floor."""
    if snr_db < asked.min_snr_db:
        found = f"{snr_db:.1f} dB" if math.isfinite(snr_db) else "some that are not finite"
        raise PassFailed(
            asked.name,
            "outputs with every result rounded to half precision",
            f"finite ones of at least {asked.min_snr_db:g} dB",
            found if asked.search else f"{found}; search = true finds what to keep in float32",
        )
    return {"half_snr_db": round(snr_db, 2) if math.isfinite(snr_db) else None}


def _examples(
    source: Artifact, asked: Fp16, data: DataSource | None
) -> Callable[[], Iterator[Feeds]]:
    """What half precision is emulated on: synthetic inputs, and calibration data for a search."""

    def examples() -> Iterator[Feeds]:
        yield from (feeds for _, feeds in parity_feeds(source.signature))
        if asked.search and data:
            yield from data.calibration(data.calibration_examples(asked.examples))

    return examples


def convert(model: ModelProto, blocked: list[str], floats: set[str]) -> ModelProto:
    """The model in half precision but for its inputs, its outputs and the nodes named.

    ``floats`` names the float32 values inside: the converter casts only those whose type is
    written in the graph.
    """
    named = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in sorted(floats - named)
    )
    # The converter says for each clamped tensor what ``check_range`` has reported already.
    logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.ERROR)
    converted = float16.convert_float_to_float16(
        model,
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=list(KEPT),
        node_block_list=blocked,
    )
    _join_casts(converted, set(blocked))
    ordered = _topological(converted)
    del converted.graph.node[:]
    converted.graph.node.extend(ordered)
    return converted


def _join_casts(model: ModelProto, blocked: set[str]) -> None:
    """Between neighbours that both stay in float32 the value does too.

    The converter casts it to half precision and back, where it would overflow after all.
    """
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        back = maker.get(node.input[0]) if node.op_type == "Cast" else None
        if back is None or back.op_type != "Cast":
            continue
        source = maker.get(back.input[0])
        if source is not None and (source.name in blocked or source.op_type in KEPT):
            # A cast to the type that it has already, which every runtime drops.
            node.input[0] = back.input[0]
    read = {name for node in graph.node for name in node.input}
    read |= {output.name for output in graph.output}
    alive = [node for node in graph.node if node.op_type != "Cast" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(alive)


def check_range(name: str, model: ModelProto, blocked: set[str]) -> dict[str, Any]:
    """Weights fit into half precision.

    Single numbers beyond its range (a mask's minus infinity) are clamped to it and reported;
    a tensor with such a number is refused, since clamping it would change the model.
    """
    inside = {i for node in model.graph.node if node.name not in blocked for i in node.input}
    clamped, underflowed = {}, 0
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or tensor.name not in inside:
            continue
        magnitudes = np.abs(array(tensor))
        largest = float(magnitudes.max(initial=0))
        if largest > LARGEST and magnitudes.size > 1:
            raise PassFailed(
                name,
                f"range of {tensor.name!r}",
                f"magnitudes up to {LARGEST:g}",
                f"{largest:g}; keep the node that reads it in float32 with 'exclude'",
            )
        if largest > LARGEST:
            clamped[tensor.name] = str(float(array(tensor).reshape(())))
        underflowed += int(np.count_nonzero((magnitudes > 0) & (magnitudes < SMALLEST / 2)))
    return {"clamped": clamped, "underflowed": underflowed}


def _float_tensors(model: ModelProto) -> dict[str, int]:
    return {
        tensor.name: tensor_bytes(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }


def _read_in_half(graph: GraphProto, blocked: set[str]) -> Iterator[str]:
    """Names of the values that a node in half precision reads: they have to be in it too."""
    for node in graph.node:
        if node.name in blocked or node.op_type in KEPT:
            continue
        single = float16.ALWAYS_FLOAT_INPUTS.get(node.op_type, ())
        yield from (name for place, name in enumerate(node.input) if place not in single)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read_in_half(inner, blocked)


def _weights(model: ModelProto, *kinds: int) -> list[TensorProto]:
    """The initializers of these types, those of branches and loop bodies too."""
    graphs = subgraphs(model.graph)
    return [tensor for graph in graphs for tensor in graph.initializer if tensor.data_type in kinds]


def _float_bytes(model: ModelProto) -> int:
    return sum(map(tensor_bytes, _weights(model, TensorProto.FLOAT, TensorProto.FLOAT16)))


def _topological(model: ModelProto) -> list[NodeProto]:
    """The nodes, each behind those that it reads from, otherwise in the order they have."""
    waiting = list(model.graph.node)
    unmade = {name for node in waiting for name in node.output}
    ordered: list[NodeProto] = []
    while waiting:
        held = []
        for node in waiting:
            if unmade.isdisjoint(node.input):
                ordered.append(node)
                unmade.difference_update(node.output)
            else:
                held.append(node)
        if len(held) == len(waiting):
            raise PassFailed("fp16", "graph", "one without cycles", f"one at {held[0].name!r}")
        waiting = held
    return ordered
