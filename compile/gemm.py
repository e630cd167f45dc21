"""Gemm written as MatMul and Add, which every quantizer knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compile.graph import array, fresh_name, infer_shapes, initializers, taken_names


def split_gemms(model: onnx.ModelProto) -> int:
    """Replace each Gemm by Transpose, MatMul, Mul and Add, as far as it needs them, in place.

    Gemm(A, B, C) = alpha A' B' + beta C. A factor goes into the weight or the bias where that is
    an initializer. Returns the number of Gemm nodes there were.
    """
    graph = model.graph
    gemms = [n for n in graph.node if n.op_type == "Gemm" and n.domain in ("", "ai.onnx")]
    if not gemms:
        return 0
    splitter = _Splitter(model)
    nodes = list(graph.node)
    graph.ClearField("node")
    for node in nodes:
        is_gemm = node.op_type == "Gemm" and node.domain in ("", "ai.onnx")
        graph.node.extend(splitter.split(node) if is_gemm else [node])
    return len(gemms)


class _Splitter:
    """What all Gemms of one model share: its weights, types and names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.weights = initializers(model)
        self.taken = taken_names(model.graph)
        infer_shapes(model)
        values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}

    def split(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        alpha, beta = options.get("alpha", 1.0), options.get("beta", 1.0)
        left, right, *bias = node.input
        kind = self.types.get(node.output[0], TensorProto.FLOAT)
        steps: list[onnx.NodeProto] = []

        def add(op: str, *inputs: str, **settings: Any) -> str:
            name = fresh_name(f"{node.name or 'gemm'}_{op.lower()}", self.taken)
            steps.append(helper.make_node(op, inputs, [name], name, **settings))
            return name

        def scale(value: str, factor: float) -> str:
            if factor == 1.0:
                return value
            if value in self.weights:
                return self._scaled(value, factor)
            return add("Mul", value, self._constant(factor, kind))

        if options.get("transA"):
            left = add("Transpose", left, perm=[1, 0])
        fixed = right in self.weights
        if fixed:
            right = scale(right, alpha)
        if options.get("transB"):
            right = add("Transpose", right, perm=[1, 0])
        product = add("MatMul", left, right)
        if not fixed:
            product = scale(product, alpha)
        if bias and bias[0] and beta != 0.0:
            add("Add", product, scale(bias[0], beta))
        steps[-1].output[0] = node.output[0]
        for step in steps:
            step.metadata_props.extend(node.metadata_props)
        return steps

    def _scaled(self, weight: str, factor: float) -> str:
        values = array(self.weights[weight])
        scaled = (values.astype(np.float64) * factor).astype(values.dtype)
        return self._initializer(f"{weight}_scaled", scaled)

    def _constant(self, value: float, kind: int) -> str:
        return self._initializer("factor", np.asarray(value, helper.tensor_dtype_to_np_dtype(kind)))

    def _initializer(self, name: str, values: np.ndarray) -> str:
        name = fresh_name(name, self.taken)
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        self.weights[name] = self.graph.initializer[-1]
        return name
