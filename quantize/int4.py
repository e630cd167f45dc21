"""INT4 and its like: weights of linear layers in codes of few bits by blocks, not the activations.

Each layer becomes ``com.microsoft.MatMulNBits`` or a MatMul behind a blocked ``DequantizeLinear``,
an embedding ``GatherBlockQuantized``. A single token's time is the time to read the weights, so
this is faster where few tokens are computed at once (decoding) and smaller everywhere; with many
tokens INT8 is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from compile.artifact import Artifact, Made
from compile.data import DataSource
from compile.errors import InputError
from compile.graph import load_onnx, opset, save_onnx
from compile.parity import parity_feeds
from quantize.audit import (
    PassFailed,
    audit_onnx,
    check_examples,
    check_matched,
    check_patterns,
    check_smaller,
    decibels,
    folder_bytes,
)
from quantize.gram import InputStatistics, input_statistics, squared_error
from quantize.linear import (
    Footprint,
    Layer,
    Selection,
    embedding_layers,
    linear_layers,
    replace_nodes,
)
from quantize.nbits import (
    dequantize,
    dequantized_constants,
    gather,
    layer_constants,
    multiply,
    multiply_dequantized,
    use_contrib,
)
from quantize.passes import Int4
from quantize.rounding.blocks import STORED_BITS, BlockCodes
from quantize.rounding.gptq import gptq
from quantize.rounding.hqq import hqq
from quantize.rounding.rtn import round_to_nearest

BLOCKED_OPSET = 21


def make_int4(
    source: Artifact,
    asked: Int4,
    folder: Path,
    data: DataSource | None,
    progress: Callable[[str], None],
) -> Made:
    """Carry out the pass on an ONNX artifact and audit the result.

    Facts: layers matched and left alone, embeddings, bytes, signal-to-noise ratio, kernels; with
    GPTQ ``calibration_examples`` and, by layer, the signal-to-noise ratio of its outputs on them
    beside round-to-nearest's. Raises PassFailed for data with too few examples.
    """
    model = load_onnx(source.folder)
    selection = linear_layers(model, asked.exclude, asked.layers)
    tables = Selection()
    if asked.embeddings:
        tables = embedding_layers(model, asked.exclude, asked.layers)
    check_patterns(asked, [*selection.names, *tables.names])
    facts = check_matched(asked.name, selection)
    fitting = [layer for layer in tables.layers if layer.shape[1] % asked.block == 0]
    facts |= {
        "rounding": asked.rounding,
        "bits": asked.bits,
        "block": asked.block,
        "embeddings": len(fitting),
        "embeddings_skipped": {
            layer.node.name: f"rows of {layer.shape[1]} are not whole blocks of {asked.block}"
            for layer in tables.layers
            if layer not in fitting
        },
    }
    if asked.form == "QDQ":
        check_opset(asked.name, model)
    codes: dict[str, BlockCodes] = {}
    if asked.rounding == "gptq":
        if data is None:
            raise InputError("pass int4 (gptq) needs data to calibrate on")
        examples = check_examples(asked.name, "passes.examples", data, asked.examples)
        facts["calibration_examples"] = examples
        progress(f"int4: calibrating on {examples} examples")
        ratios: dict[str, list[float]] = {}
        widths = {layer.node.input[0]: layer.shape[0] for layer in selection.layers}
        for seen in input_statistics(source.folder, widths, lambda: data.calibration(examples)):
            for name, found, ratio in compensated(selection, seen, asked):
                progress(f"int4: gptq, {len(codes) + 1} of {len(selection.weights)} weights")
                codes[name] = found
                ratios[name] = ratio
        facts["output_snr_db"] = {name: ratio[0] for name, ratio in ratios.items()}
        facts["output_snr_db_rtn"] = {name: ratio[1] for name, ratio in ratios.items()}
    size = Footprint(model, [*selection.layers, *fitting])
    quantize_int4(model, selection, fitting, asked, codes)
    save_onnx(model, folder)
    facts["weights_share"] = size.share
    files = (source.bytes, folder_bytes(folder))
    facts |= check_smaller(asked.name, size.now(model), files, _share(asked, selection))
    audited = (feeds for _, feeds in parity_feeds(source.signature))
    names = [layer.node.name for layer in selection.layers]
    facts |= audit_onnx(asked.name, source, folder, audited, asked.min_snr_db, names)
    return Made("onnx", source.signature, facts)


def check_opset(name: str, model: ModelProto) -> None:
    """Blocks of a DequantizeLinear, and types of 4 bits, came with opset 21."""
    if (found := opset(model)) < BLOCKED_OPSET:
        way_out = 'form = "MatMulNBits" works with any'
        raise PassFailed(name, "opset", f"{BLOCKED_OPSET} or later", f"{found}; {way_out}")


def compensated(
    selection: Selection, seen: dict[str, InputStatistics], asked: Int4
) -> Iterator[tuple[str, BlockCodes, list[float]]]:
    """GPTQ of each weight whose inputs were ``seen``: its name, its codes, and the ratio of the
    outputs to their error on the calibration data, dB, beside that of round-to-nearest.

    A weight that several layers share is rounded for the inputs of the first of them.
    """
    done: set[str] = set()
    for layer in selection.layers:
        name, statistics = layer.weight.name, seen.get(layer.node.input[0])
        if statistics is None or name in done:
            continue
        done.add(name)
        weight, gram = layer.values(), statistics.gram
        codes = gptq(
            weight,
            gram,
            asked.block,
            asked.symmetric,
            asked.bits,
            damping=asked.damping,
            activation_order=asked.activation_order,
        )
        plain = round_to_nearest(weight, asked.block, asked.symmetric, asked.bits)
        power = squared_error(weight, gram)
        errors = [squared_error(c.dequantize() - weight, gram) for c in (codes, plain)]
        ratios = [round(decibels(power, max(error, 1e-30)), 2) for error in errors]
        # Calibration so narrow that compensation hurts even there would hurt everywhere.
        yield name, codes if errors[0] <= errors[1] else plain, ratios


def quantize_int4(
    model: ModelProto,
    selection: Selection,
    embeddings: list[Layer],
    asked: Int4,
    codes: dict[str, BlockCodes] | None = None,
) -> None:
    """Rewrite the selected layers and embeddings of ``model`` in place; ``codes`` are of those
    weights, by name, that are rounded already."""
    constants: dict[str, list[TensorProto]] = {}
    replacements: dict[str, list[NodeProto]] = {}
    known = dict(codes or {})
    for layer in selection.layers:
        name = layer.weight.name
        if name not in known:
            known[name] = _rounded(layer.values(), asked)
        nodes = replacements[layer.node.output[0]] = []
        if asked.form == "MatMulNBits":
            constants.setdefault(name, layer_constants(name, known[name]))
            nodes.append(multiply(layer, known[name], asked.accuracy_level, constants[name]))
            continue
        if name not in constants:
            constants[name] = dequantized_constants(name, known[name])
            nodes.append(dequantize(name, known[name], constants[name]))
        nodes.append(multiply_dequantized(layer))
    for layer in embeddings:
        name = f"{layer.weight.name}__rows"
        if name not in known:
            known[name] = _rounded(layer.values().T, asked)
            constants[name] = layer_constants(name, known[name], flat=True)
        replacements[layer.node.output[0]] = [gather(layer, known[name], constants[name])]
    replace_nodes(model, replacements, [t for group in constants.values() for t in group])
    if asked.form == "MatMulNBits" or embeddings:
        use_contrib(model)


def _rounded(weight: np.ndarray, asked: Int4) -> BlockCodes:
    """Without data: an embedding's rows are looked up, and no inputs are multiplied by them."""
    method = hqq if asked.rounding == "hqq" else round_to_nearest
    return method(weight, asked.block, asked.symmetric, asked.bits)


def _share(asked: Int4, selection: Selection) -> float:
    """Most of their float32 bytes that the weights may take: their codes' and five bytes a
    block, in blocks that the last rows fill only in part, and a tenth more."""
    before = after = 0
    coded = asked.block * STORED_BITS[asked.bits] // 8
    for weight in selection.weights.values():
        rows, columns = weight.dims
        before += 4 * rows * columns
        after += columns * -(-rows // asked.block) * (coded + 5)
    return 1.1 * after / before
