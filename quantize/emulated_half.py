"""Half precision as a graph of float32 operators: each computes in float32, and its result is
rounded to half precision and back, as on a GPU that sums up in float32.

What a CPU makes of a half graph is no proof: ONNX Runtime has half kernels for few operators there.
It computes the others in float32 and drops the casts between neighbours, so that a square beyond
65504 whose mean is taken next never becomes the infinity that it is on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.transformers import float16

from compile.graph import array, fresh_name, subgraphs, taken_names

Stays = Callable[[NodeProto], bool]
"""Whether a node of the main graph stays in float32."""


def emulated_half(model: ModelProto, floats: set[str], stays: Stays) -> ModelProto:
    """A copy of ``model`` that computes in half precision but for the nodes that stay.

    ``floats`` names the float32 values that nodes compute. Between nodes that stay, values stay
    in float32 too; inputs, and what such nodes make, are rounded for the others. Constants are
    rounded, and clamped, as the converter does. What is inside of branches and loops is not
    rounded, their results are.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    return _Emulation(copy, floats, stays).run()


class _Emulation:
    def __init__(self, model: ModelProto, floats: set[str], stays: Stays) -> None:
        self._model, self._floats, self._stays = model, floats, stays
        self._taken = taken_names(model.graph)
        self._constants = {
            t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT
        }
        single = {v.name for v in model.graph.input if _is_float(v.type.tensor_type.elem_type)}
        self._unrounded = single - self._constants.keys()
        """Values in float32 that were not rounded where they were made."""
        self._nodes: list[NodeProto] = []
        self._half: dict[str, str] = {}
        """Values and constants -> their rounded forms."""

    def run(self) -> ModelProto:
        graph = self._model.graph
        for node in list(graph.node):
            if self._stays(node):
                self._unrounded.update(name for name in node.output if name in self._floats)
                self._nodes.append(node)
            else:
                self._round(node)
        del graph.node[:]
        graph.node.extend(self._nodes)
        graph.ClearField("value_info")
        # Both forms of all weights would take twice the memory.
        inner = (node for g in subgraphs(graph) for node in g.node)
        read = {name for node in inner for name in node.input}
        read |= {output.name for g in subgraphs(graph) for output in g.output}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self._model

    def _round(self, node: NodeProto) -> None:
        single = float16.ALWAYS_FLOAT_INPUTS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if place in single:
                continue
            if name in self._constants:
                node.input[place] = self._rounded_constant(name)
            elif name in self._unrounded:
                if name not in self._half:
                    self._half[name] = fresh_name(f"{name}__half", self._taken)
                    self._nodes += self._casts(name, self._half[name])
                node.input[place] = self._half[name]
        casts = []
        for place, name in enumerate(node.output):
            if name in self._floats:
                node.output[place] = fresh_name(f"{name}__float", self._taken)
                casts += self._casts(node.output[place], name)
        self._nodes += [node, *casts]

    def _casts(self, name: str, result: str) -> list[NodeProto]:
        half = fresh_name(f"{result}__fp16", self._taken)
        return [
            helper.make_node("Cast", [name], [half], name=half, to=TensorProto.FLOAT16),
            helper.make_node("Cast", [half], [result], name=f"{half}__cast", to=TensorProto.FLOAT),
        ]

    def _rounded_constant(self, name: str) -> str:
        if name not in self._half:
            self._half[name] = fresh_name(f"{name}__half", self._taken)
            values = half_constant(array(self._constants[name]))
            tensor = numpy_helper.from_array(values.astype(np.float32), self._half[name])
            self._model.graph.initializer.append(tensor)
        return self._half[name]


def half_constant(values: np.ndarray) -> np.ndarray:
    """float16, as the converter makes it: numbers beyond its range clamped to its ends, and such
    as are too small for it to the smallest that it holds."""
    flat = np.array(values, np.float32).reshape(-1)
    return float16.convert_np_to_float16(flat).reshape(values.shape)


def _is_float(kind: int) -> bool:
    return kind == TensorProto.FLOAT
