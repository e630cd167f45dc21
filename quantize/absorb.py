"""Where a scale of each channel of a layer's input can be moved to, so that nothing changes.

    x W = (x / s) (s W)

s W is the layers' own constant. x / s has to be made by whoever makes x: a normalisation takes it
into its gain and bias, be it one operator, one fused with the residual before it, or spelled out
in small ones; a linear layer into its columns and bias. It passes through a ReLU, since s is
positive, through a product with a gate (SwiGLU) or with a number, and through attention, which
only mixes positions, from the projection of the values (not where query heads share them). Where
x has other readers (the residual of a post-norm block, a cache), or comes out of something that
is not linear in its channels (GELU, softmax), a ``Mul`` is put between, an elementwise pass over x
in each call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compile.graph import (
    array,
    consumers,
    fresh_name,
    initializers,
    producers,
    shapes,
    taken_names,
)
from quantize.linear import Layer

NORMS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
    "EmbedLayerNormalization": (5, 6),
}
"""Operators, and which of their inputs are a gain by channel and a bias. Their other outputs (the
mean, the residual's sum) and what they add before they normalise do not depend on those."""
HEADS_FIRST = [0, 2, 1, 3]
"""(batch, position, head, channel) <-> (batch, head, position, channel)."""


@dataclass(frozen=True)
class Home:
    """A node with constants by channel, and which of its inputs those are."""

    node: NodeProto
    constants: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Layers that share their input, and who can take its scale."""

    input: str
    layers: tuple[Layer, ...]
    homes: tuple[Home, ...]
    """Of x / s: a normalisation, or a product and the addition of its bias. Empty where only a
    ``Mul`` of its own can make it."""

    @property
    def width(self) -> int:
        return self.layers[0].shape[0]


def groups(model: ModelProto, layers: Sequence[Layer]) -> list[Group]:
    """The layers by their inputs, in the order in which the graph first reads those."""
    by_input: dict[str, list[Layer]] = {}
    for layer in layers:
        by_input.setdefault(layer.node.input[0], []).append(layer)
    found = _Finder(model)
    return [Group(name, tuple(own), found.homes(name, own)) for name, own in by_input.items()]


def absorb(model: ModelProto, scales: Sequence[tuple[Group, np.ndarray]]) -> None:
    """Multiply the rows of each group's weights by its scales (K,), all above zero, and divide
    their input by them. In place; layers and groups found before are stale then."""
    for group, own in scales:
        for layer in group.layers:
            _give(model, layer.node, 1, _constant(model, layer.node, 1) * own[:, None])
        for home in group.homes:
            for place in home.constants:
                _give(model, home.node, place, _constant(model, home.node, place) / own)
    # Last, since it makes new messages of all nodes.
    _insert(model, [(group, own) for group, own in scales if not group.homes])


class _Finder:
    def __init__(self, model: ModelProto) -> None:
        self._constants = initializers(model)
        self._made, self._readers = producers(model), consumers(model)
        self._promised = {output.name for output in model.graph.output}
        self._shapes = shapes(model)

    def homes(self, name: str, layers: Sequence[Layer]) -> tuple[Home, ...]:
        """Those of a value that these layers read, where nobody else does."""
        own = {layer.node.output[0] for layer in layers}
        if name in self._promised or {n.output[0] for n in self._readers[name]} != own:
            return ()
        return self._makers(name, layers[0].shape[0])

    def _makers(self, name: str, width: int) -> tuple[Home, ...]:
        """The constants that make a value (..., width) by its channels: together they can divide
        it. Empty where it depends on anything else."""
        node = self._made.get(name)
        if node is None:
            return ()
        if node.op_type in NORMS:
            return self._norm(node, name, width)
        match node.op_type:
            case "MatMul" if self._is_matrix(node.input[1], width):
                return (Home(node, (1,)),)
            case "Add":
                return self._sum(node, width)
            case "Mul":
                return self._product(node, width)
            case "Div" if self._is_number(node.input[1]):
                return self._inner(node.input[0], width)
            case "Relu" | "LeakyRelu":
                return self._inner(node.input[0], width)
            case "Reshape" | "Attention":
                values = self._attended(node)
                return self._inner(values, width) if values else ()
        return ()

    def _inner(self, name: str, width: int) -> tuple[Home, ...]:
        return self._makers(name, width) if self._read_once(name) else ()

    def _norm(self, node: NodeProto, name: str, width: int) -> tuple[Home, ...]:
        given = [i for i in NORMS[node.op_type] if i < len(node.input) and node.input[i]]
        known = name == node.output[0] and given
        if known and all(self._by_channel(node.input[i], width) for i in given):
            return (Home(node, tuple(given)),)
        return ()

    def _sum(self, node: NodeProto, width: int) -> tuple[Home, ...]:
        """The addition of a bias, and whoever makes what it is added to."""
        place = self._channels_of(node, width)
        if place is None:
            return ()
        rest = self._inner(node.input[1 - place], width)
        return (Home(node, (place,)), *rest) if rest else ()

    def _product(self, node: NodeProto, width: int) -> tuple[Home, ...]:
        """With a gain by channel, that alone; with a number, the other factor; with a gate, the
        first factor of the two that can be divided."""
        place = self._channels_of(node, width)
        if place is not None:
            return (Home(node, (place,)),)
        if len(set(node.input)) < 2:
            return ()
        factors = [name for name in node.input if not self._is_number(name)]
        return next(filter(None, (self._inner(name, width) for name in factors)), ())

    def _attended(self, node: NodeProto) -> str | None:
        """The values (batch, position, channel) of which ``node`` makes weighted means, head by
        head: an Attention of three axes, or the end of one of four (or of a product with
        probabilities) between a split into heads and its undoing."""
        if node.op_type == "Attention":
            return self._values(node) if self._whole_heads(node) else None
        merged = self._made.get(node.input[0])
        if merged is None or not self._swaps_heads(merged):
            return None
        mixed = self._made.get(merged.input[0])
        inside = self._values(mixed) if mixed is not None else None
        swap = self._made.get(inside or "")
        split = self._made.get(swap.input[0]) if swap is not None else None
        if mixed is None or swap is None or split is None or split.op_type != "Reshape":
            return None
        between = (merged.output[0], mixed.output[0], swap.output[0], split.output[0])
        if not self._swaps_heads(swap) or not all(map(self._read_once, between)):
            return None
        # Heads of one size in values of one width are as many on both sides. Where several query
        # heads share one of the values, the values are narrower.
        sizes = [self._shapes.get(name, ())[3:] for name in (split.output[0], merged.output[0])]
        known = sizes[0] == sizes[1] and sizes[0] and isinstance(sizes[0][0], int)
        return split.input[0] if known else None

    def _values(self, node: NodeProto) -> str | None:
        """What an Attention, or a product of two activations, takes weighted means of."""
        if node.op_type == "MatMul" and node.input[1] not in self._constants:
            return node.input[1] if node.input[0] != node.input[1] else None
        # With a cache the values of earlier calls are among them, and these are handed on.
        cached = any(node.input[4:6]) or any(node.output[1:])
        if node.op_type != "Attention" or node.domain not in ("", "ai.onnx") or cached:
            return None
        return node.input[2] if node.input[2] not in node.input[:2] else None

    def _whole_heads(self, node: NodeProto) -> bool:
        """Of an Attention of three axes: one head of the values for each of the queries."""
        heads = {a.name: a.i for a in node.attribute if a.name.endswith("_num_heads")}
        return len(heads) == 2 and len(set(heads.values())) == 1

    def _swaps_heads(self, node: NodeProto) -> bool:
        return node.op_type == "Transpose" and any(
            list(a.ints) == HEADS_FIRST for a in node.attribute if a.name == "perm"
        )

    def _channels_of(self, node: NodeProto, width: int) -> int | None:
        """Which of two inputs is a constant by channel."""
        return next((i for i in (0, 1) if self._by_channel(node.input[i], width)), None)

    def _read_once(self, name: str) -> bool:
        return name not in self._promised and len(self._readers.get(name, ())) == 1

    def _by_channel(self, name: str, width: int) -> bool:
        """A float32 constant (width,), whatever axes of one it has before that."""
        tensor = self._constants.get(name)
        return (
            tensor is not None
            and tensor.data_type == TensorProto.FLOAT
            and list(tensor.dims)[-1:] == [width]
            and math.prod(tensor.dims) == width
        )

    def _is_matrix(self, name: str, columns: int) -> bool:
        tensor = self._constants.get(name)
        single = tensor is not None and tensor.data_type == TensorProto.FLOAT
        return tensor is not None and single and list(tensor.dims)[1:] == [columns]

    def _is_number(self, name: str) -> bool:
        tensor = self._constants.get(name)
        return tensor is not None and math.prod(tensor.dims) == 1


def _constant(model: ModelProto, node: NodeProto, place: int) -> np.ndarray:
    """As it is now: the layer may have been scaled as another group's home."""
    return array(initializers(model)[node.input[place]])


def _give(model: ModelProto, node: NodeProto, place: int, values: np.ndarray) -> None:
    """Let the node's input be a constant of these values: the one that it has, unless others
    read that too (the export keeps equal constants once)."""
    name = node.input[place]
    readers = consumers(model).get(name, [])
    tensor = initializers(model)[name]
    if len(readers) > 1 or sum(i == name for i in node.input) > 1:
        taken = taken_names(model.graph)
        name = node.input[place] = fresh_name(f"{name}__{node.name or node.output[0]}", taken)
        tensor = model.graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def _insert(model: ModelProto, scales: Sequence[tuple[Group, np.ndarray]]) -> None:
    """A ``Mul`` by 1 / s just before the first layer of each group."""
    taken, before = taken_names(model.graph), {}
    for group, own in scales:
        result = fresh_name(f"{group.input}__scaled", taken)
        factors = numpy_helper.from_array((1 / own).astype(np.float32), f"{result}__factors")
        model.graph.initializer.append(factors)
        mul = helper.make_node("Mul", [group.input, factors.name], [result], name=result)
        outputs = {layer.node.output[0] for layer in group.layers}
        for layer in group.layers:
            layer.node.input[0] = result
        first = next(n.output[0] for n in model.graph.node if n.output[0] in outputs)
        before[first] = mul
    nodes = [
        each
        for node in model.graph.node
        for each in ([before[node.output[0]], node] if node.output[0] in before else [node])
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
