"""The linear layers of an ONNX graph: which of them a pass takes, and why it leaves the others.

A layer that can be taken is a ``MatMul`` by a constant matrix (K, N); ``quantize/products.py``
finds the products with a constant that have another form. Products of two activations
(attention's) are no layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from compile.graph import array, initializers, shapes, subgraphs, tensor_bytes, tensors
from quantize.exclude import matching
from quantize.products import constant_products

FLOATS = (TensorProto.FLOAT,)
"""Types that a weight may have before it is quantized."""
NOT_ASKED = "not among the layers that are asked for"
ANY_FLOAT = (*FLOATS, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Layer:
    """One ``MatMul`` or ``Gather`` and its constant."""

    node: NodeProto
    weight: TensorProto

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.dims)

    def values(self) -> np.ndarray:
        """The weight as float32."""
        return array(self.weight).astype(np.float32, copy=False)


@dataclass
class Selection:
    """What a pass found in a graph."""

    layers: list[Layer] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    """Left alone as asked: node -> the reason."""
    missed: dict[str, str] = field(default_factory=dict)
    """Linear layers in a form that the pass cannot take: node -> the reason. The audit refuses
    these: a layer left in float by accident is the field's best known silent failure."""
    names: list[str] = field(default_factory=list)
    """All that ``exclude`` may name: of every layer the node's name and its weights'."""

    @property
    def weights(self) -> dict[str, TensorProto]:
        """The constants of all layers, each once (layers may share one)."""
        return {layer.weight.name: layer.weight for layer in self.layers}


def linear_layers(
    model: ModelProto, exclude: Sequence[str] = (), only: Sequence[str] = ()
) -> Selection:
    """Every product with a constant, sorted by what can be done with it; those that no pattern of
    ``only`` matches, where there are some, are left alone like the excluded ones.

    Missed, unless excluded, are those in any other form than a MatMul of the main graph by an
    initializer of two axes: another operator (a convolution, a recurrence, an Einsum), with the
    constant on the left, computed from constants by nodes that the canonical form does not fold,
    or inside of a branch, a loop body or a function.
    """
    constants, known = initializers(model), shapes(model)
    selection = Selection()
    for product in constant_products(model):
        name = product.name
        if product.is_outer(known):
            continue
        selection.names += product.names
        if pattern := matching(exclude, product.names):
            selection.excluded[name] = f"excluded by {pattern!r}"
        elif only and not matching(only, product.names):
            selection.excluded[name] = NOT_ASKED
        elif reason := product.why_not:
            selection.missed[name] = reason
        elif (tensor := constants[product.constants[0]]).data_type not in FLOATS:
            kind = TensorProto.DataType.Name(tensor.data_type)
            selection.missed[name] = f"its weight is {kind} already"
        elif len(tensor.dims) != 2:
            selection.missed[name] = f"its weight has {len(tensor.dims)} axes, not 2"
        else:
            selection.layers.append(Layer(product.node, tensor))
    return selection


def embedding_layers(
    model: ModelProto, exclude: Sequence[str] = (), only: Sequence[str] = ()
) -> Selection:
    """Every ``Gather`` of rows of a constant float table (rows, width)."""
    constants = initializers(model)
    selection = Selection()
    for node in model.graph.node:
        table = constants.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type not in FLOATS or len(table.dims) != 2:
            continue
        if any(a.i for a in node.attribute if a.name == "axis"):
            continue
        names = (node.name, table.name)
        selection.names += names
        if pattern := matching(exclude, names):
            selection.excluded[node.name] = f"excluded by {pattern!r}"
        elif only and not matching(only, names):
            selection.excluded[node.name] = NOT_ASKED
        else:
            selection.layers.append(Layer(node, table))
    return selection


class Footprint:
    """What the weights of some layers take, before a pass and after it."""

    def __init__(self, model: ModelProto, layers: Iterable[Layer]) -> None:
        weights = {layer.weight.name: layer.weight for layer in layers}
        self.weights = sum(map(tensor_bytes, weights.values()))
        self.all = sum(map(tensor_bytes, model.graph.initializer))
        floats = (t for t in tensors(model) if t.data_type in ANY_FLOAT)
        self.share = round(self.weights / max(1, sum(map(tensor_bytes, floats))), 4)
        """Of the bytes of all floating constants of the file, embeddings and biases included."""

    def now(self, model: ModelProto) -> tuple[int, int]:
        """Bytes of the weights before, and of what stands for them in ``model`` now.

        Whatever constants the pass added, and originals that it left behind, count as theirs.
        """
        saved = self.all - sum(map(tensor_bytes, model.graph.initializer))
        return self.weights, self.weights - saved


def replace_nodes(
    model: ModelProto, replacements: dict[str, list[NodeProto]], constants: Iterable[TensorProto]
) -> None:
    """Put nodes in the place of others, keyed by the first output of the replaced node, add
    their constants, and drop the constants that nothing uses any more."""
    graph = model.graph
    nodes = [new for old in graph.node for new in replacements.get(old.output[0], [old])]
    used = {name for node in nodes for name in node.input}
    used |= {output.name for output in graph.output}
    for inner in itertools.islice(subgraphs(graph), 1, None):
        used |= {name for node in inner.node for name in node.input}
        used |= {output.name for output in inner.output}
    kept = [t for t in [*graph.initializer, *constants] if t.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    named = {tensor.name for tensor in kept}
    shapes = [v for v in graph.value_info if v.name in used and v.name not in named]
    del graph.value_info[:]
    graph.value_info.extend(shapes)
