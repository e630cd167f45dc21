"""Where a scale of each channel of a layer's input can be moved to, so that nothing changes.

    x W = (x / s) (s W)

s W is the layers' own constant. x / s has to be made by whoever makes x: a normalisation takes it
into its gain and bias, a linear layer into its columns and bias; also through a ReLU, since s is
positive, and through a product with a gate (SwiGLU). Where x has other readers (the residual of a
post-norm block), or comes out of something that is not linear in its channels (GELU, softmax), a
``Mul`` is put between, an elementwise pass over x in each call.
"""

from __future__ import annotations

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
    taken_names,
)
from quantize.linear import Layer

NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
"""Operators whose second input is a gain by channel, and whose third, if any, a bias."""


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

    def homes(self, name: str, layers: Sequence[Layer]) -> tuple[Home, ...]:
        """Those of a value that these layers read, where nobody else does."""
        width = layers[0].shape[0]
        own = {layer.node.output[0] for layer in layers}
        if name in self._promised or {n.output[0] for n in self._readers[name]} != own:
            return ()
        node = self._made.get(name)
        if node is None:
            return ()
        if node.op_type in NORMS:
            places = [i for i in (1, 2) if i < len(node.input) and node.input[i]]
            known = all(self._by_channel(node.input[i], width) for i in places)
            # With more outputs than one, the others (mean, deviation) are read by somebody.
            return (Home(node, tuple(places)),) if known and len(node.output) == 1 else ()
        if node.op_type == "Relu" and self._read_once(node.input[0]):
            return self._linear(node.input[0], width)
        if node.op_type == "Mul" and len(set(node.input)) == 2:
            sides = (self._linear(side, width) for side in node.input if self._read_once(side))
            return next((homes for homes in sides if homes), ())
        return self._linear(name, width)

    def _linear(self, name: str, width: int) -> tuple[Home, ...]:
        """The product, and the addition of its bias, that make a value by its channels."""
        node, homes = self._made.get(name), []
        if node is not None and node.op_type == "Add":
            place = next((i for i in (0, 1) if self._by_channel(node.input[i], width)), None)
            if place is None or not self._read_once(node.input[1 - place]):
                return ()
            homes.append(Home(node, (place,)))
            node = self._made.get(node.input[1 - place])
        if node is None or node.op_type != "MatMul":
            return ()
        weight = self._constants.get(node.input[1])
        if weight is None or weight.data_type != TensorProto.FLOAT or len(weight.dims) != 2:
            return ()
        return (*homes, Home(node, (1,))) if weight.dims[1] == width else ()

    def _read_once(self, name: str) -> bool:
        return name not in self._promised and len(self._readers.get(name, ())) == 1

    def _by_channel(self, name: str, width: int) -> bool:
        tensor = self._constants.get(name)
        return (
            tensor is not None
            and list(tensor.dims) == [width]
            and tensor.data_type == TensorProto.FLOAT
        )


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
