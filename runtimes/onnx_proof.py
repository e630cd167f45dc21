"""What ran in ONNX Runtime, node by node, from a profiled call."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from compile.signature import Feeds
from runtimes.session import Proof

if TYPE_CHECKING:
    import onnxruntime

INTEGER_OPERATORS = frozenset(
    {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "ConvInteger"}
    | {"QGemm", "QAttention", "DynamicQuantizeLSTM"}
)
"""Beside every QLinear* operator, and MatMulNBits of accuracy level 4."""
INT8_ACCURACY_LEVEL = 4
"""MatMulNBits: the activations too are quantized to int8 (``accuracy_level`` attribute)."""
CAST_OPERATORS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
ATTENTION_OPERATORS = frozenset(
    {"Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"}
    | {"PackedAttention", "PackedMultiHeadAttention", "DecoderMaskedMultiHeadAttention"}
)


class Arena(NamedTuple):
    """Bytes of a provider's arena after a call."""

    reserved: int
    in_use: int
    peak: int
    """The most that was in use since the session was opened."""


class Profile(NamedTuple):
    nodes: list[Node]
    arena: Arena | None
    """None where the profile does not tell it (ONNX Runtime before the middle of 2026)."""


class Node(NamedTuple):
    """A node of the optimised graph that a call executed."""

    operator: str
    provider: str


def profiled(
    open_session: Callable[[onnxruntime.SessionOptions], onnxruntime.InferenceSession],
    options: onnxruntime.SessionOptions,
    feeds: Feeds,
    provider: str,
) -> Profile:
    """What a call executes and holds, in a session of its own: the timed one has no profiler.

    It is the second call: the first one learns how large a block to reserve for the activations.
    """
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(options)
        for _ in range(2):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    executed = {
        (event["name"], event["args"]["node_index"]): event["args"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    }
    nodes = [Node(node["op_name"], node["provider"]) for node in executed.values()]
    return Profile(nodes, _arena([n for n in executed.values() if n["provider"] == provider]))


def _arena(nodes: Sequence[Mapping[str, str]]) -> Arena | None:
    """The arena at the end of the last call, from what the profile says after each of its nodes."""
    try:
        return Arena(
            reserved=max(int(node["mem_arena_held"]) for node in nodes),
            in_use=int(nodes[-1]["mem_bytes_in_use"]),
            peak=max(int(node["mem_in_use_peak"]) for node in nodes),
        )
    except (KeyError, IndexError, ValueError):
        return None


def onnx_proof(nodes: Sequence[Node], provider: str, model: Path) -> Proof:
    """The proof of a session that was opened on ``model`` to run on ``provider``."""
    kernels = Counter(node.operator for node in nodes)
    providers = Counter(node.provider for node in nodes)
    attention = sorted(kernels.keys() & ATTENTION_OPERATORS)
    # On CUDA the accuracy level is ignored: weights are dequantized and multiplied in float.
    on_cpu = [node.operator for node in nodes if node.provider == "CPUExecutionProvider"]
    int8_weights, unknown = _int8_weight_only(model, on_cpu.count("MatMulNBits"))
    integer = int8_weights + sum(
        count
        for operator, count in kernels.items()
        if operator in INTEGER_OPERATORS or operator.startswith("QLinear")
    )
    elsewhere = Counter(node.operator for node in nodes if node.provider != provider)
    return Proof(
        providers=dict(providers.most_common()),
        kernels=dict(kernels.most_common()),
        integer_kernels=integer,
        casts=sum(kernels[operator] for operator in CAST_OPERATORS),
        attention="+".join(f"onnx:{operator}" for operator in attention),
        fallback="; ".join(filter(None, [_elsewhere(elsewhere, provider), unknown])),
    )


def _int8_weight_only(path: Path, nodes: int) -> tuple[int, str]:
    """How many MatMulNBits nodes multiply integers, and a note where that cannot be known."""
    if nodes == 0:
        return 0, ""
    try:
        import onnx
    except ImportError:
        return 0, "accuracy level of MatMulNBits unknown: the onnx package is missing"
    model = onnx.load(str(path), load_external_data=False)
    levels = [
        next((a.i for a in node.attribute if a.name == "accuracy_level"), 0)
        for node in model.graph.node
        if node.op_type == "MatMulNBits"
    ]
    return sum(level == INT8_ACCURACY_LEVEL for level in levels), ""


def _elsewhere(operators: Counter[str], provider: str) -> str:
    """One line on the nodes that another provider ran, for example shape arithmetic on the CPU."""
    if not operators:
        return ""
    listed = ", ".join(f"{n} {operator}" for operator, n in operators.most_common(5))
    return f"{operators.total()} nodes ran outside {provider}: {listed}"
