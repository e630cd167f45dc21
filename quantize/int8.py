"""INT8: weights in s8 with a scale per output channel, activations in 8 bits with one per tensor.

    y = (a_q - z_a) * s_a  @  w_q * s_w        a_q in 0..255 or -127..127, w_q in -127..127

u8 by s8 is the pairing that ONNX Runtime's CPU kernels and VNNI are made for, and its zero point
puts all codes to use where values lie on one side (behind a GELU). s8 by s8 with zero points of 0
is what TensorRT takes and tensor cores multiply. ONNX Runtime's CPU provider has it too, slowly,
and off on x86 by default: there it multiplies in float what several layers read.

Both modes quantize a weight alike and differ in the activations' ranges alone: ``dynamic`` emits
the operators that find a range in each call, ``static`` a QuantizeLinear and DequantizeLinear pair
with a calibrated one. Only the inputs of layers are quantized, never their outputs: the kernels
then return float32, and activation, normalisation and residual keep their float fusions. The two
products of attention multiply two activations and stay in float unless asked for: they are one
operator with one kernel, which has to be taken apart for it (``quantize/attention.py``).

ONNX Runtime's own quantizers are not used for two reasons. ``quantize_dynamic`` makes an invalid
graph at opset 23 unless told which operators to leave, and its static calibrators hold every
activation in memory and fail on inputs of unlike lengths. Where they work, the dynamic graph and
the percentile of the histogram are the same as here, which the tests check.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Made
from compile.data import DataSource
from compile.errors import InputError
from compile.graph import array, consumers, initializers, load_onnx, save_onnx, shapes
from compile.parity import parity_feeds
from compile.signature import Feeds
from quantize.attention import activation_products, spell_out_attention
from quantize.audit import (
    PassFailed,
    audit_onnx,
    check_examples,
    check_matched,
    check_patterns,
    check_smaller,
    folder_bytes,
)
from quantize.calibrate import Range, activation_ranges
from quantize.exclude import matching
from quantize.linear import (
    Footprint,
    Layer,
    Selection,
    embedding_layers,
    linear_layers,
    replace_nodes,
)
from quantize.passes import Activations, Int8
from quantize.rounding.channels import channel_codes

AUDITED = 16
"""Calibration examples on which the result is compared with the graph before."""


def make_int8(
    source: Artifact,
    asked: Int8,
    folder: Path,
    data: DataSource | None,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on an ONNX artifact and audit the result.

    Facts: layers matched and left alone, bytes, signal-to-noise ratio, kernels, ``weight_bits``,
    ``activations`` and, where it calibrates, ``calibration_examples``. Raises PassFailed for data
    with too few.
    """
    model = load_onnx(source.folder)
    if asked.attention:
        spell_out_attention(model)
    pairs = activation_products(model) if asked.attention else []
    products = [
        node
        for node in pairs
        if not matching(asked.exclude, [node.name])
        and (not asked.layers or matching(asked.layers, [node.name]))
    ]
    selection = linear_layers(model, asked.exclude, asked.layers)
    tables = Selection()
    if asked.embeddings:
        tables = embedding_layers(model, asked.exclude, asked.layers)
    names = [*selection.names, *tables.names, *(node.name for node in pairs)]
    check_patterns(asked, names)
    facts = check_matched(asked.name, selection)
    if asked.attention and not products:
        raise PassFailed(
            asked.name, "products of two activations", "at least one, with attention = true", "none"
        )
    audited: Iterable[Feeds] = (feeds for _, feeds in parity_feeds(source.signature))
    ranges = None
    if asked.mode == "static":
        if data is None:
            raise InputError("pass int8 (static) needs data to calibrate on")
        examples = check_examples(asked.name, "passes.examples", data, asked.examples)
        facts["calibration_examples"] = examples
        progress(f"int8: calibrating on {examples} examples")
        ranges = _ranges(model, selection, products, data.calibration(examples), asked)
        # Synthetic inputs may lie outside of the calibrated ranges by right.
        audited = data.calibration(min(examples, AUDITED))
    bits = weight_bits()
    size = Footprint(model, [*selection.layers, *tables.layers])
    quantize_int8(model, selection, tables.layers, ranges, bits, asked.activations, products)
    save_onnx(model, folder)
    facts["weights_share"] = size.share
    facts |= {"mode": asked.mode, "activations": asked.activations, "weight_bits": bits}
    facts |= {"embeddings": len(tables.layers), "attention_products": len(products)}
    files = (source.bytes, folder_bytes(folder))
    facts |= check_smaller(asked.name, size.now(model), files, _share(selection))
    names = [node.name for node in (*(layer.node for layer in selection.layers), *products)]
    signed = asked.activations == "s8"
    facts |= audit_onnx(asked.name, source, folder, audited, asked.min_snr_db, names, signed)
    return Made("onnx", source.signature, facts)


def _ranges(
    model: ModelProto,
    selection: Selection,
    products: Sequence[NodeProto],
    examples: Iterable[Feeds],
    asked: Int8,
) -> dict[str, Range]:
    inputs = [layer.node.input[0] for layer in selection.layers]
    inputs += [name for node in products for name in node.input]
    with tempfile.TemporaryDirectory(prefix="assay-int8-") as folder:
        # Not the source's file: attention may have been taken apart.
        save_onnx(model, Path(folder))
        return activation_ranges(Path(folder), list(dict.fromkeys(inputs)), examples, asked)


def quantize_int8(
    model: ModelProto,
    selection: Selection,
    embeddings: list[Layer],
    ranges: Mapping[str, Range] | None,
    bits: int,
    activations: Activations = "u8",
    products: Sequence[NodeProto] = (),
) -> None:
    """Rewrite the selected layers of ``model``, and ``products`` of two activations, in place.

    ``ranges`` holds the range of each of their inputs, by tensor name; None asks for dynamic ones,
    whose codes are u8 whatever ``activations`` says, and of layers alone.
    ``bits`` is 8, or 7 on a processor whose u8s8 instructions saturate (``weight_bits``).
    """
    weights = {
        name: channel_codes(array(tensor), bits) for name, tensor in selection.weights.items()
    }
    constants = [
        numpy_helper.from_array(array, f"{name}{suffix}")
        for name, (codes, scales) in weights.items()
        for array, suffix in (
            (codes, "__s8"),
            (scales, "__scale"),
            (np.zeros(scales.shape, np.int8), "__zero"),
        )
    ]
    replacements: dict[str, list[NodeProto]] = {}
    prepared: set[str] = set()
    for layer in selection.layers:
        if ranges is None:
            nodes = _dynamic_layer(layer, prepared)
        else:
            nodes = _static_layer(layer, activations, prepared)
        replacements[layer.node.output[0]] = nodes
    for node in products:
        replacements[node.output[0]] = _static_product(node, activations, prepared)
    if ranges is not None:
        spans = {name: found.grid(activations) for name, found in ranges.items()}
        for name, (scale, zero) in spans.items():
            constants.append(numpy_helper.from_array(scale, f"{name}__scale"))
            constants.append(numpy_helper.from_array(zero, f"{name}__zero"))
        for layer, add, bias in _flat_biases(model, selection):
            result = layer.node.output[0]
            unit = spans[layer.node.input[0]][0] * weights[layer.weight.name][1]
            codes = np.rint(bias.astype(np.float64) / unit).clip(-(2**31), 2**31 - 1)
            constants.append(numpy_helper.from_array(codes.astype(np.int32), f"{result}__bias"))
            constants.append(numpy_helper.from_array(unit, f"{result}__bias_scale"))
            replacements[add.output[0]] = _static_bias(result, add)
    for table in {layer.weight.name: layer for layer in embeddings}.values():
        codes, scales = channel_codes(table.values().T, 8)
        constants.append(numpy_helper.from_array(np.ascontiguousarray(codes.T), _rows(table)))
        constants.append(numpy_helper.from_array(scales[:, None], f"{_rows(table)}__scale"))
    for layer in embeddings:
        replacements[layer.node.output[0]] = _embedding(layer)
    replace_nodes(model, replacements, constants)


def weight_bits() -> int:
    """7 on an x86 processor without VNNI, otherwise 8.

    There u8 by s8 is multiplied by ``vpmaddubsw``, which adds pairs of products in 16 bits and
    saturates: 2 * 255 * 127 does not fit, 2 * 255 * 63 does.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return 8
    cpuinfo = Path("/proc/cpuinfo")
    return 8 if cpuinfo.exists() and "vnni" in cpuinfo.read_text() else 7


def _share(selection: Selection) -> float:
    """Most of their float32 bytes that the weights may take: a byte each and five bytes a
    column, and a twentieth more."""
    shapes = [weight.dims for weight in selection.weights.values()]
    before = sum(4 * rows * columns for rows, columns in shapes)
    return 1.05 * sum((rows + 5) * columns for rows, columns in shapes) / before


def _dynamic_layer(layer: Layer, prepared: set[str]) -> list[NodeProto]:
    """ONNX Runtime fuses these, with the bias that follows, to DynamicQuantizeMatMul, or where
    layers share an input to MatMulIntegerToFloat."""
    source, result, weight = layer.node.input[0], layer.node.output[0], layer.weight.name
    codes, scale, zero = f"{source}__u8", f"{source}__scale", f"{source}__zero"
    nodes = [
        helper.make_node(
            "MatMulInteger",
            [codes, f"{weight}__s8", zero, f"{weight}__zero"],
            [f"{result}__i32"],
            name=layer.node.name,
        ),
        helper.make_node("Cast", [f"{result}__i32"], [f"{result}__sum"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [scale, f"{weight}__scale"], [f"{result}__unit"]),
        helper.make_node("Mul", [f"{result}__sum", f"{result}__unit"], [result]),
    ]
    if source not in prepared:
        prepared.add(source)
        nodes.insert(0, helper.make_node("DynamicQuantizeLinear", [source], [codes, scale, zero]))
    return nodes


def _static_layer(layer: Layer, activations: Activations, prepared: set[str]) -> list[NodeProto]:
    """ONNX Runtime fuses these to MatMulIntegerToFloat, or with a flat bias to QGemm."""
    source, weight = layer.node.input[0], layer.weight.name
    nodes = _static_input(source, activations, prepared)
    if weight not in prepared:
        prepared.add(weight)
        scale = [f"{weight}__scale", f"{weight}__zero"]
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{weight}__s8", *scale], [f"{weight}__dq"], axis=1
            )
        )
    inputs = [f"{source}__dq", f"{weight}__dq"]
    return [*nodes, helper.make_node("MatMul", inputs, layer.node.output, name=layer.node.name)]


def _static_product(
    node: NodeProto, activations: Activations, prepared: set[str]
) -> list[NodeProto]:
    quantized = [each for name in node.input for each in _static_input(name, activations, prepared)]
    inputs = [f"{name}__dq" for name in node.input]
    return [*quantized, helper.make_node("MatMul", inputs, node.output, name=node.name)]


def _static_input(source: str, activations: Activations, prepared: set[str]) -> list[NodeProto]:
    """Nothing where another reader has prepared it already."""
    if source in prepared:
        return []
    prepared.add(source)
    scale, codes = [f"{source}__scale", f"{source}__zero"], f"{source}__{activations}"
    return [
        helper.make_node("QuantizeLinear", [source, *scale], [codes]),
        helper.make_node("DequantizeLinear", [codes, *scale], [f"{source}__dq"]),
    ]


def _flat_biases(
    model: ModelProto, selection: Selection
) -> list[tuple[Layer, NodeProto, np.ndarray]]:
    """Layers whose result has two axes, with the ``Add`` of their constant bias.

    ONNX Runtime joins the two to a Gemm first (poolers and classification heads), and runs that
    on integers only where the bias has int32 codes in units of s_a * s_w.
    """
    constants, readers, known = initializers(model), consumers(model), shapes(model)
    found = []
    for layer in selection.layers:
        result = layer.node.output[0]
        adds = readers.get(result, [])
        if len(known.get(result, ())) != 2 or [n.op_type for n in adds] != ["Add"]:
            continue
        other = next((name for name in adds[0].input if name != result), result)
        if other in constants and list(constants[other].dims) == [layer.shape[1]]:
            found.append((layer, adds[0], array(constants[other])))
    return found


def _static_bias(result: str, add: NodeProto) -> list[NodeProto]:
    bias = f"{result}__bias"
    return [
        helper.make_node("DequantizeLinear", [bias, f"{bias}_scale"], [f"{bias}_dq"], axis=0),
        helper.make_node("Add", [result, f"{bias}_dq"], add.output, name=add.name),
    ]


def _embedding(layer: Layer) -> list[NodeProto]:
    """Rows of codes times their rows' scales."""
    rows, ids, result = _rows(layer), layer.node.input[1], layer.node.output[0]
    return [
        helper.make_node("Gather", [rows, ids], [f"{result}__s8"], name=layer.node.name),
        helper.make_node("Cast", [f"{result}__s8"], [f"{result}__codes"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{rows}__scale", ids], [f"{result}__row_scale"]),
        helper.make_node("Mul", [f"{result}__codes", f"{result}__row_scale"], [result]),
    ]


def _rows(layer: Layer) -> str:
    # Not the name that a layer by the same, tied weight gives its codes: those are transposed.
    return f"{layer.weight.name}__rows"
