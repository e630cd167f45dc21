"""Products with a constant factor, wherever a graph has them and however the constant is made.

Quantizers that look only for a MatMul by an initializer leave the others in float and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

FACTORS = {
    "MatMul": slice(0, 2),
    "Gemm": slice(0, 2),
    "FusedMatMul": slice(0, 2),
    "FusedGemm": slice(0, 2),
    # Of ONNX Runtime's own operator, that multiplies by the weights of query, key and value.
    "Attention": slice(1, 2),
}
"""Operator -> which of its inputs are multiplied with one another."""

Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Product:
    """One product that has a constant factor."""

    node: NodeProto
    constant: str
    """The value that is constant; the right one where both are."""
    why_not: str
    """Why no pass takes it, in a few words; empty for a MatMul by an initializer."""

    def is_outer(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether it only scales: a constant on the left with one column, or of three axes and
        more on the right with one row, sums over one element (the angles of rotary positions)."""
        left, right = (shapes.get(name, ()) for name in self.node.input[:2])
        if self.node.op_type != "MatMul":
            return False
        if self.constant == self.node.input[1]:
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
        factors = node.input[FACTORS.get(node.op_type, slice(0))]
        if fixed := [name for name in factors if name in known]:
            yield Product(node, fixed[-1], _why_not(node, fixed, known, inside))
        graphs = [g for a in node.attribute for g in (a.g, *a.graphs) if g.node]
        label = f"inside of {node.op_type} {node.name or node.output[0]!r}"
        for graph in graphs:
            yield from _graph_products(graph, known, inside or label, functions)
        if function := functions.get((node.domain, node.op_type)):
            given = zip(function.input, node.input, strict=False)
            formal = {name: known[value] for name, value in given if value in known}
            yield from _products(function.node, formal, inside or label, functions)
        read = [name for name in node.input if name]
        if node.op_type == "Constant" or (read and not graphs and known.keys() >= set(read)):
            known |= dict.fromkeys(node.output, f"is computed from constants by {node.op_type}")


def _why_not(node: NodeProto, fixed: list[str], known: Mapping[str, str], inside: str) -> str:
    if inside:
        return inside
    if node.op_type != "MatMul":
        return f"a {node.op_type}, not the canonical MatMul"
    if len(fixed) == 2:
        return "both of its factors are constants"
    if fixed[0] == node.input[0]:
        return "its constant is on the left"
    return f"its weight {made}" if (made := known[fixed[0]]) else ""
