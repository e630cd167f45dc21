from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits

from quantize.linear import Layer
from quantize.nbits import layer_constants, multiply
from quantize.rounding.blocks import pack
from quantize.rounding.rtn import round_to_nearest


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_those_of_onnx_runtime_bit_for_bit(block: int, symmetric: bool) -> None:
    rows, columns = 256, 37
    matrix = weight(rows, columns)
    matrix[:block, 3] = 0
    matrix[:block, 4] = np.abs(matrix[:block, 4])
    blocks = rows // block
    packed = np.zeros((columns, blocks, block // 2), np.uint8)
    scales = np.zeros((columns, blocks), np.float32)
    zeros = np.zeros((columns, (blocks + 1) // 2), np.uint8)
    quantize_matmul_4bits(packed, matrix, scales, zeros, block, columns, rows, symmetric)

    ours = round_to_nearest(matrix, block, symmetric)

    np.testing.assert_array_equal(ours.packed(), packed)
    np.testing.assert_array_equal(ours.scales, scales)
    if not symmetric:
        np.testing.assert_array_equal(ours.packed_zeros(), zeros)


@pytest.mark.parametrize("rows", [250, 70, 16, 5])
def test_last_block_is_filled_with_zeros_when_rows_are_no_multiple(rows: int) -> None:
    matrix = weight(rows, 9)
    for symmetric in (True, False):
        codes = round_to_nearest(matrix, 32, symmetric)
        filling = codes.codes.reshape(9, -1)[:, rows:]
        # ONNX Runtime writes code 0 there, which stands for -zero * scale, and relies on its
        # kernels to stop at K; the zero point is right for every reader.
        zeros = 8 if codes.zeros is None else codes.zeros[:, -1:]
        assert (filling == zeros).all()
        assert codes.dequantize().shape == (rows, 9)


def test_packing_puts_the_earlier_code_in_the_lower_bits() -> None:
    codes = np.array([[1, 2, 3]], np.uint8)
    np.testing.assert_array_equal(pack(codes, 4), [[0x21, 0x03]])
    np.testing.assert_array_equal(pack(codes, 2), [[0b00_11_10_01]])
    np.testing.assert_array_equal(pack(codes, 8), codes)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 5),
    block=st.sampled_from([16, 32, 64]),
    symmetric=st.booleans(),
    bits=st.sampled_from([2, 3, 4, 8]),
    scale=st.floats(1e-6, 1e6),
    seed=st.integers(0, 1000),
)
def test_error_is_at_most_half_a_step(
    rows: int, columns: int, block: int, symmetric: bool, bits: int, scale: float, seed: int
) -> None:
    matrix = weight(rows, columns, seed) * np.float32(scale)
    codes = round_to_nearest(matrix, block, symmetric, bits)
    step = np.abs(np.repeat(codes.scales, block, axis=1)[:, :rows].T)
    error = np.abs(codes.dequantize() - matrix)
    # Symmetric codes reach one step further on one side: what lies opposite of the largest may be
    # a step off. An asymmetric zero point is rounded itself, which moves the ends by half a step.
    assert (error <= step * 1.001).all()
    inside = np.abs(codes.dequantize()) < ((1 << (bits - 1)) - 1.5) * step
    assert (error[inside] <= 0.5001 * step[inside] + 1e-30).all()


@settings(max_examples=40, deadline=None)
@given(
    exponent=st.integers(-20, 20),
    symmetric=st.booleans(),
    bits=st.sampled_from([2, 3, 4, 8]),
    seed=st.integers(0, 1000),
)
def test_codes_do_not_know_the_unit_nor_the_order_of_columns(
    exponent: int, symmetric: bool, bits: int, seed: int
) -> None:
    matrix = weight(40, 6, seed)
    order = np.random.default_rng(seed).permutation(6)
    codes = round_to_nearest(matrix, 16, symmetric, bits)
    scaled = round_to_nearest(matrix * np.float32(2.0**exponent), 16, symmetric, bits)
    np.testing.assert_array_equal(scaled.codes, codes.codes)
    np.testing.assert_array_equal(scaled.scales, codes.scales * np.float32(2.0**exponent))
    permuted = round_to_nearest(matrix[:, order], 16, symmetric, bits)
    np.testing.assert_array_equal(permuted.codes, codes.codes[order])


@pytest.mark.parametrize("value", [0.0, 1.5, -3.0])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_constant_weight_is_exact(value: float, symmetric: bool, bits: int) -> None:
    matrix = np.full((33, 2), value, np.float32)
    codes = round_to_nearest(matrix, 16, symmetric, bits)
    np.testing.assert_allclose(codes.dequantize(), matrix, rtol=1e-6)


@pytest.mark.parametrize("rows", [64, 70])
@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_kernel_computes_what_the_codes_stand_for(
    rows: int, block: int, symmetric: bool, bits: int, graphs
) -> None:
    matrix, columns = weight(rows, 24), 24
    codes = round_to_nearest(matrix, block, symmetric, bits)
    constants = layer_constants("w", codes)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    product = multiply(Layer(node, numpy_helper.from_array(matrix, "w")), codes, 0, constants)
    graph = helper.make_graph(
        [product],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, columns])],
        constants,
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    x = weight(5, rows, 7)

    oracle = x.astype(np.float64) @ codes.dequantize().astype(np.float64)

    np.testing.assert_allclose(graphs.run(model, {"x": x}), oracle, rtol=1e-5, atol=1e-5)
