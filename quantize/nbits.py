"""Block codes in a graph: the operators that read them, and their constants."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from quantize.linear import Layer
from quantize.rounding.blocks import STORED_BITS, BlockCodes

DOMAIN = "com.microsoft"


def layer_constants(name: str, codes: BlockCodes, flat: bool = False) -> list[TensorProto]:
    """Codes, scales and, unless symmetric, zero points in the order of ONNX Runtime's inputs.

    ``flat`` joins the axes of blocks, as ``GatherBlockQuantized`` wants them.
    """
    packed = codes.packed()
    tensors = [
        numpy_helper.from_array(
            packed.reshape(len(packed), -1) if flat else packed, f"{name}__codes"
        ),
        numpy_helper.from_array(codes.scales, f"{name}__scales"),
    ]
    if (zeros := codes.packed_zeros()) is not None:
        tensors.append(numpy_helper.from_array(zeros, f"{name}__zeros"))
    return tensors


def multiply(
    layer: Layer, codes: BlockCodes, accuracy_level: int, constants: list[TensorProto]
) -> NodeProto:
    """The ``MatMulNBits`` that takes the place of a layer."""
    rows, columns = layer.shape
    return helper.make_node(
        "MatMulNBits",
        [layer.node.input[0], *(tensor.name for tensor in constants)],
        layer.node.output,
        name=layer.node.name,
        domain=DOMAIN,
        K=rows,
        N=columns,
        bits=STORED_BITS[codes.grid.bits],
        block_size=codes.grid.block,
        accuracy_level=accuracy_level,
    )


def gather(layer: Layer, codes: BlockCodes, constants: list[TensorProto]) -> NodeProto:
    """The ``GatherBlockQuantized`` that takes the place of an embedding."""
    table, *scales = (tensor.name for tensor in constants)
    return helper.make_node(
        "GatherBlockQuantized",
        [table, layer.node.input[1], *scales],
        layer.node.output,
        name=layer.node.name,
        domain=DOMAIN,
        gather_axis=0,
        quantize_axis=1,
        bits=codes.grid.bits,
        block_size=codes.grid.block,
    )


def dequantized_constants(name: str, codes: BlockCodes) -> list[TensorProto]:
    """(K, N) codes, (blocks, N) scales and zero points for ``dequantize``. Symmetric codes are
    signed, and then have no zero points."""
    grid, middle = codes.grid, codes.grid.middle
    table = codes.codes.reshape(len(codes.codes), -1)[:, : codes.rows].T
    if grid.zeros is None:
        kind = ml_dtypes.int4 if grid.bits == 4 else np.int8
        table, zeros = (table.astype(np.int16) - middle).astype(np.int8), None
    else:
        kind = ml_dtypes.uint4 if grid.bits == 4 else np.uint8
        zeros = np.ascontiguousarray(grid.zeros.T)
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(table).astype(kind), f"{name}__codes"),
        numpy_helper.from_array(np.ascontiguousarray(grid.scales.T), f"{name}__scales"),
    ]
    if zeros is not None:
        tensors.append(numpy_helper.from_array(zeros.astype(kind), f"{name}__zeros"))
    return tensors


def dequantize(name: str, codes: BlockCodes, constants: list[TensorProto]) -> NodeProto:
    """The blocked ``DequantizeLinear`` (opset 21) that makes a layer's weight, ``NAME__dq``."""
    return helper.make_node(
        "DequantizeLinear",
        [tensor.name for tensor in constants],
        [f"{name}__dq"],
        name=f"{name}__dq",
        axis=0,
        block_size=codes.grid.block,
    )


def multiply_dequantized(layer: Layer) -> NodeProto:
    """The layer's own MatMul, by what ``dequantize`` makes."""
    inputs = [layer.node.input[0], f"{layer.weight.name}__dq"]
    return helper.make_node("MatMul", inputs, layer.node.output, name=layer.node.name)


def use_contrib(model: ModelProto) -> None:
    """Declare ONNX Runtime's own operators in the model."""
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
