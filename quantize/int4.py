"""INT4: weights of linear layers in 4-bit codes by blocks, activations untouched.

Each layer becomes ``com.microsoft.MatMulNBits``, an embedding ``GatherBlockQuantized``. A single
token's time is the time to read the weights, so this is faster where few tokens are computed at
once (decoding) and smaller everywhere; with many tokens INT8 is faster.
"""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compile.artifact import Artifact, Made
from compile.graph import load_onnx, save_onnx
from compile.parity import parity_feeds
from quantize.audit import audit_onnx, check_exclude, check_matched, check_smaller, folder_bytes
from quantize.linear import (
    Footprint,
    Layer,
    Selection,
    embedding_layers,
    linear_layers,
    replace_nodes,
)
from quantize.passes import Int4
from quantize.rounding.blocks import BITS, BlockCodes
from quantize.rounding.rtn import round_to_nearest

DOMAIN = "com.microsoft"


def make_int4(source: Artifact, asked: Int4, folder: Path) -> Made:
    """Carry out the pass on an ONNX artifact and audit the result.

    Facts: layers matched and left alone, embeddings, bytes, signal-to-noise ratio, kernels.
    """
    model = load_onnx(source.folder)
    selection = linear_layers(model, asked.exclude)
    tables = embedding_layers(model, asked.exclude) if asked.embeddings else Selection()
    check_exclude(asked.name, asked.exclude, [*selection.names, *tables.names])
    facts = check_matched(asked.name, selection)
    fitting = [layer for layer in tables.layers if layer.shape[1] % asked.block == 0]
    facts |= {
        "block": asked.block,
        "embeddings": len(fitting),
        "embeddings_skipped": {
            layer.node.name: f"rows of {layer.shape[1]} are not whole blocks of {asked.block}"
            for layer in tables.layers
            if layer not in fitting
        },
    }
    size = Footprint(model, [*selection.layers, *fitting])
    quantize_int4(model, selection, fitting, asked)
    save_onnx(model, folder)
    facts["weights_share"] = size.share
    files = (source.bytes, folder_bytes(folder))
    facts |= check_smaller(asked.name, size.now(model), files, _share(asked, selection))
    examples = (feeds for _, feeds in parity_feeds(source.signature))
    facts |= audit_onnx(
        asked.name, source, folder, examples, asked.min_snr_db, len(selection.layers)
    )
    return Made("onnx", source.signature, facts)


def quantize_int4(
    model: ModelProto, selection: Selection, embeddings: list[Layer], asked: Int4
) -> None:
    """Rewrite the selected layers and embeddings of ``model`` in place."""
    constants: dict[str, list[TensorProto]] = {}
    replacements: dict[str, list[NodeProto]] = {}
    for layer in selection.layers:
        name = layer.weight.name
        if name not in constants:
            codes = round_to_nearest(layer.values(), asked.block, asked.symmetric)
            constants[name] = layer_constants(name, codes)
        replacements[layer.node.output[0]] = [
            multiply(layer, asked.block, asked.accuracy_level, constants[name])
        ]
    for layer in embeddings:
        name = f"{layer.weight.name}__rows"
        if name not in constants:
            codes = round_to_nearest(layer.values().T, asked.block, asked.symmetric)
            constants[name] = layer_constants(name, codes, flat=True)
        replacements[layer.node.output[0]] = [_gather(layer, asked.block, constants[name])]
    replace_nodes(model, replacements, [t for group in constants.values() for t in group])
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def layer_constants(name: str, codes: BlockCodes, flat: bool = False) -> list[TensorProto]:
    """Codes, scales and, unless symmetric, zero points in the order of the operators' inputs.

    ``flat`` joins the axes of blocks, as ``GatherBlockQuantized`` wants them.
    """
    packed = codes.packed()
    tensors = [
        numpy_helper.from_array(packed.reshape(len(packed), -1) if flat else packed, f"{name}__u4"),
        numpy_helper.from_array(codes.scales, f"{name}__scales"),
    ]
    if (zeros := codes.packed_zeros()) is not None:
        tensors.append(numpy_helper.from_array(zeros, f"{name}__zeros"))
    return tensors


def multiply(
    layer: Layer, block: int, accuracy_level: int, constants: list[TensorProto]
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
        bits=BITS,
        block_size=block,
        accuracy_level=accuracy_level,
    )


def _share(asked: Int4, selection: Selection) -> float:
    """Most of their float32 bytes that the weights may take: half a byte each and five bytes a
    block, in blocks that the last rows fill only in part, and a tenth more."""
    before = after = 0
    for weight in selection.weights.values():
        rows, columns = weight.dims
        before += 4 * rows * columns
        after += columns * -(-rows // asked.block) * (asked.block // 2 + 5)
    return 1.1 * after / before


def _gather(layer: Layer, block: int, constants: list[TensorProto]) -> NodeProto:
    codes, *scales = (tensor.name for tensor in constants)
    return helper.make_node(
        "GatherBlockQuantized",
        [codes, layer.node.input[1], *scales],
        layer.node.output,
        name=layer.node.name,
        domain=DOMAIN,
        gather_axis=0,
        quantize_axis=1,
        bits=BITS,
        block_size=block,
    )
