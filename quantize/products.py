"""Products with a constant factor, wherever a graph has them and however the constant is made.

Quantizers that look only for a MatMul by an initializer leave the others in float and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, helper

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
MATRIX_PRODUCTS = {
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "FusedGemm": (0, 1),
    "FusedMatMul": (0, 1),
    "FusedMatMulActivation": (0, 1),
    "GemmFastGelu": (0, 1),
    "TransposeMatMul": (0, 1),
}
FACTORS = MATRIX_PRODUCTS | {
    "Conv": (0, 1),
    "ConvTranspose": (0, 1),
    "DeformConv": (0, 1),
    "FusedConv": (0, 1),
    "NhwcFusedConv": (0, 1),
    # The sequence, the weights of its gates, the weights of the state before.
    "GRU": (0, 1, 2),
    "LSTM": (0, 1, 2),
    "RNN": (0, 1, 2),
    # Query, key and value.
    "Attention": (0, 1, 2),
    "GroupQueryAttention": (0, 1, 2),
    "MultiHeadAttention": (0, 1, 2),
    # ONNX Runtime's operators that multiply by weights of their own before they attend.
    f"{MICROSOFT}.Attention": (1,),
    "DecoderAttention": (2, 3),
    "LongformerAttention": (1, 4),
    "PackedAttention": (1,),
    "MoE": (2, 4, 6),
}
"""Operator -> which of its inputs are multiplied with others. ``Einsum`` multiplies all of them."""

Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Product:
    """One product that has a constant factor."""

    node: NodeProto
    constants: tuple[str, ...]
    """The factors that are constant, in the order of the node's inputs."""
    why_not: str
    """Why no pass takes it, in a few words; empty for a MatMul by an initializer."""

    @property
    def name(self) -> str:
        return self.node.name or next(filter(None, self.node.output))

    @property
    def names(self) -> tuple[str, ...]:
        """What ``exclude`` may call it: the node's name, or that of a weight."""
        return (self.name, *self.constants)

    def is_outer(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether it only scales: no sum runs over more than one element of a constant (the
        angles of rotary positions).

        That is a MatMul's constant on the left with one column, or of three axes and more on the
        right with one row, and an Einsum whose constants have no axis longer than one that is
        summed over together with another operand's.
        """
        if self.node.op_type == "Einsum":
            return _einsum_scales(self.node, self.constants, shapes)
        if self.node.op_type != "MatMul":
            return False
        left, right = (shapes.get(name, ()) for name in self.node.input[:2])
        if self.constants[-1] == self.node.input[1]:
            return len(right) > 2 and right[-2] == 1
        return bool(left) and left[-1] == 1


def constant_products(model: ModelProto) -> Iterator[Product]:
    """All of them in the order of the nodes, those inside of a node at its place."""
    functions = {(f.domain, f.name): f for f in model.functions}
    yield from _graph_products(model.graph, {}, "", functions)


def _graph_products(
    graph: GraphProto,
    outer: Mapping[str, str],
    inside: str,
    functions: Mapping[tuple[str, str], FunctionProto],
) -> Iterator[Product]:
    known = {**outer, **{tensor.name: "" for tensor in graph.initializer}}
    known |= {tensor.values.name: "is sparse" for tensor in graph.sparse_initializer}
    yield from _products(graph.node, known, inside, functions)


def _products(
    nodes: Iterable[NodeProto],
    known: dict[str, str],
    inside: str,
    functions: Mapping[tuple[str, str], FunctionProto],
) -> Iterator[Product]:
    """``known`` tells of each constant how it is made; empty for an initializer. It grows."""
    for node in nodes:
        function = functions.get((node.domain, node.op_type))
        factors = () if function else _factors(node)
        if fixed := tuple(name for name in factors if name in known):
            yield Product(node, fixed, _why_not(node, fixed, known, inside))
        graphs = [g for a in node.attribute for g in (a.g, *a.graphs) if g.node]
        label = f"inside of {node.op_type} {node.name or node.output[0]!r}"
        for graph in graphs:
            yield from _graph_products(graph, known, inside or label, functions)
        if function:
            given = zip(function.input, node.input, strict=False)
            formal = {name: known[value] for name, value in given if value in known}
            yield from _products(function.node, formal, inside or label, functions)
        read = [name for name in node.input if name]
        if node.op_type == "Constant" or (read and not graphs and known.keys() >= set(read)):
            known |= dict.fromkeys(node.output, f"is computed from constants by {node.op_type}")


def _factors(node: NodeProto) -> list[str]:
    """The inputs that are multiplied, leaving out those that are not given."""
    if node.op_type == "Einsum":
        return list(node.input)
    own = FACTORS.get(f"{node.domain}.{node.op_type}")
    places = FACTORS.get(node.op_type, ()) if own is None else own
    return [node.input[i] for i in places if i < len(node.input) and node.input[i]]


def _why_not(node: NodeProto, fixed: tuple[str, ...], known: Mapping[str, str], inside: str) -> str:
    if inside:
        return inside
    if node.op_type not in MATRIX_PRODUCTS:
        return f"{_a(node.op_type)}, which has no form with quantized weights here"
    if node.op_type != "MatMul":
        return f"{_a(node.op_type)}, not the canonical MatMul"
    if len(fixed) == 2:
        return "both of its factors are constants"
    if fixed[0] == node.input[0]:
        return "its constant is on the left"
    return f"its weight {made}" if (made := known[fixed[0]]) else ""


def _a(operator: str) -> str:
    # Letters of an abbreviation are read by their names: an LSTM, an RNN.
    spelled = operator.isupper() and operator[0] in "AEFHILMNORSX"
    return f"{'an' if spelled or operator[0] in 'AEIO' else 'a'} {operator}"


def _einsum_scales(
    node: NodeProto, constants: tuple[str, ...], shapes: Mapping[str, Shape]
) -> bool:
    equation = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "equation")
    left, arrow, right = equation.decode().replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(node.input):  # a function's, that is told its equation by its caller
        return False
    # Without an arrow the result has the labels that occur once.
    kept = set(right) if arrow else {label for label in left if left.count(label) == 1}
    for place, (name, term) in enumerate(zip(node.input, terms, strict=True)):
        if name not in constants:
            continue
        others = set().union(*(other for i, other in enumerate(terms) if i != place))
        sizes = dict(zip(term, shapes.get(name, ()), strict=False)) if "." not in term else {}
        summed = (set(term) & others) - kept - {"."}
        if any(sizes.get(label) != 1 for label in summed):
            return False
    return True
